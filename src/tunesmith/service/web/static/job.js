"use strict";
// A job as it goes: its stream of events moves the numbers, the curve and the list.

(() => {
  const root = document.querySelector("[data-job]");
  const find = (name) => root.querySelector(`[data-${name}]`);
  const gauge = (name, text) => { root.querySelector(`[data-gauge=${name}]`).textContent = text; };
  const MOST_EVENTS = 500;
  const KINDS = { succeeded: "good", running: "busy", failed: "bad", paused: "wait", queued: "wait", validating_files: "wait" };
  const steps = new Map();
  let chart = null;
  let drawing = null;
  let status = "";
  let finish = null;

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function series() {
    const all = [...steps.entries()].sort((one, other) => one[0] - other[0]);
    return [
      all.map(([step]) => step),
      all.map(([, one]) => one.train ?? null),
      all.map(([, one]) => one.valid ?? null),
    ];
  }

  function draw() {
    drawing = null;
    if (!steps.size || typeof uPlot === "undefined") return;
    find("no-chart").hidden = true;
    const place = find("chart");
    if (chart) {
      chart.setData(series());
      return;
    }
    const axis = { stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
    chart = new uPlot({
      ...room(place),
      scales: { x: { time: false } },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }, axis],
      series: [
        { label: "Step" },
        { label: "Training", stroke: color("--accent"), width: 2, points: { show: false } },
        { label: "Validation", stroke: color("--second"), width: 2, spanGaps: true, points: { show: true, size: 7 } },
      ],
    }, series(), place);
  }

  // The legend stands below the curve, within the same box.
  function room(place) {
    return { width: place.parentElement.clientWidth - 40, height: 270 };
  }

  function redraw() {
    if (drawing === null) drawing = requestAnimationFrame(draw);
  }

  function measured(data) {
    const known = steps.get(data.step) ?? {};
    if (data.train_loss !== undefined) known.train = data.train_loss;
    const valid = data.full_valid_loss ?? data.valid_loss;
    if (valid !== undefined) known.valid = valid;
    steps.set(data.step, known);
    if (data.train_loss !== undefined) gauge("loss", tunesmith.short(data.train_loss));
    if (valid !== undefined) gauge("valid", tunesmith.short(valid));
    if (data.tokens_per_second) gauge("speed", tunesmith.number(Math.round(data.tokens_per_second)));
    if (data.memory_bytes) gauge("memory", tunesmith.size(data.memory_bytes));
    if (data.total_steps) {
      gauge("progress", `${data.step} of ${data.total_steps}`);
      find("bar").max = data.total_steps;
      find("bar").value = data.step;
    }
    redraw();
  }

  function told(event) {
    const data = event.data ?? {};
    if (event.type === "metrics" && typeof data.step === "number") measured(data);
    const list = find("events");
    const moment = new Date(event.created_at * 1000).toLocaleTimeString();
    list.prepend(tunesmith.element("li", { class: event.level }, tunesmith.element("time", {}, moment), " ", event.message));
    while (list.children.length > MOST_EVENTS) list.lastChild.remove();
    if (/checkpoint/i.test(event.message)) refresh();
  }

  function refresh() {
    document.getElementById("results").dispatchEvent(new Event("refresh"));
  }

  function moved(job) {
    status = job.status;
    finish = job.estimated_finish;
    find("state").replaceChildren(tunesmith.element("span", { class: `state ${KINDS[status] ?? "plain"}` }, status.replace("_", " ")));
    for (const one of root.querySelectorAll("[data-when]")) one.hidden = !one.dataset.when.split(" ").includes(status);
    tunesmith.show(job.error?.message ?? null, find("problem"));
    find("model").textContent = job.fine_tuned_model ?? "–";
    find("trained").textContent = tunesmith.number(job.trained_tokens);
    if (job.finished_at) find("finished").textContent = tunesmith.moment(job.finished_at);
    if (job.fine_tuned_model) {
      const name = encodeURIComponent(job.fine_tuned_model);
      find("try").href = `/ui/playground?left=${name}`;
      find("deploy").href = `/ui/deployments?model=${name}`;
    }
    left();
  }

  function left() {
    const isOver = ["succeeded", "failed", "cancelled"].includes(status);
    gauge("left", status === "succeeded" ? "done" : isOver ? "–" : finish ? tunesmith.duration(Math.max(0, finish - Date.now() / 1000)) : "–");
  }

  const where = `/tunesmith/v1/jobs/${encodeURIComponent(root.dataset.job)}/stream?project=${encodeURIComponent(tunesmith.project())}`;
  const AGAIN_MILLISECONDS = 5000;
  let source = null;
  let last = "";

  // After a broken connection the browser opens it again by itself, behind the last event; after a refusal we do.
  function follow() {
    source = new EventSource(last ? `${where}&after=${encodeURIComponent(last)}` : where);
    source.addEventListener("open", () => tunesmith.show(null, find("lost")));
    source.addEventListener("job", (event) => moved(JSON.parse(event.data)));
    source.addEventListener("event", (event) => {
      last = event.lastEventId || last;
      told(JSON.parse(event.data));
    });
    source.addEventListener("done", () => {
      source.close();
      refresh();
    });
    source.addEventListener("error", () => {
      tunesmith.show("The service does not answer at this moment; the page goes on when it does.", find("lost"));
      if (source.readyState === EventSource.CLOSED) setTimeout(follow, AGAIN_MILLISECONDS);
    });
  }
  follow();
  setInterval(left, 1000);
  addEventListener("resize", () => chart?.setSize(room(find("chart"))));
  document.addEventListener("theme", () => {
    chart?.destroy();
    chart = null;
    redraw();
  });
  addEventListener("pagehide", () => source.close());
})();
