"use strict";
// One message to two models; their answers come as they are made.

(() => {
  const form = document.getElementById("ask");
  if (!form) return;
  const field = (name) => document.getElementById(name);
  const panes = [...document.querySelectorAll("[data-pane]")].map((place) => ({
    place,
    select: place.querySelector("select"),
    talk: place.querySelector(".talk"),
    count: place.querySelector(".count"),
    messages: [],
    stop: null,
  }));
  let busy = false;

  function say(pane, role, text) {
    const words = tunesmith.element("p", { class: "words" }, text);
    pane.talk.append(tunesmith.element("div", { class: `said ${role}` }, tunesmith.element("b", {}, role === "user" ? "You" : "Model"), words));
    pane.talk.scrollTop = pane.talk.scrollHeight;
    return words;
  }

  async function* pieces(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let kept = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      kept += value;
      const lines = kept.split("\n");
      kept = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
      }
    }
  }

  async function ask(pane, prompt) {
    const system = field("system").value.trim();
    const { messages } = pane;
    pane.stop = new AbortController();
    const { signal } = pane.stop;
    messages.push({ role: "user", content: prompt });
    say(pane, "user", prompt);
    const words = say(pane, "assistant", "");
    pane.count.textContent = "thinking…";
    const started = performance.now();
    let first = null;
    let text = "";
    try {
      const answer = await tunesmith.ask("POST", "/v1/chat/completions", {
        model: pane.select.value,
        messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
        temperature: Number(field("temperature").value),
        max_tokens: Number(field("tokens").value),
        stream: true,
        stream_options: { include_usage: true },
      }, { signal });
      for await (const piece of pieces(answer)) {
        if (piece.error) throw new Error(piece.error.message);
        const more = piece.choices?.[0]?.delta?.content;
        if (more) {
          first ??= performance.now();
          text += more;
          words.textContent = text;
          pane.talk.scrollTop = pane.talk.scrollHeight;
        }
        if (piece.usage) count(pane, piece.usage, started, first);
      }
      messages.push({ role: "assistant", content: text });
      pane.place.dataset.answered = String(Number(pane.place.dataset.answered ?? 0) + 1);
    } catch (error) {
      // What was not answered is not asked again with the next message.
      messages.pop();
      // Another model was chosen meanwhile, whose conversation has not begun.
      if (messages !== pane.messages) return;
      words.classList.add("failed");
      words.textContent = error.name === "AbortError" ? `${text} (stopped)` : error.message;
      pane.count.textContent = "";
    }
  }

  function count(pane, usage, started, first) {
    const now = performance.now();
    const rate = first && now > first ? usage.completion_tokens / ((now - first) / 1000) : null;
    const speed = rate === null ? "" : `, ${rate.toFixed(rate < 10 ? 1 : 0)} tokens a second`;
    pane.count.textContent = `${usage.prompt_tokens} tokens read, ${usage.completion_tokens} written, ${((now - started) / 1000).toFixed(1)} s${speed}`;
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const prompt = field("prompt").value.trim();
    if (!prompt || busy) return;
    busy = true;
    field("stop").hidden = false;
    form.querySelector("button.primary").disabled = true;
    field("prompt").value = "";
    const asked = panes.filter((pane) => pane.select.value);
    await Promise.all(asked.map((pane) => ask(pane, prompt)));
    busy = false;
    field("stop").hidden = true;
    form.querySelector("button.primary").disabled = false;
    field("prompt").focus();
  });
  field("stop").addEventListener("click", () => panes.forEach((pane) => pane.stop?.abort()));
  field("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  const empty = (pane) => {
    pane.stop?.abort();
    pane.messages = [];
    pane.talk.replaceChildren();
    pane.count.textContent = "\u00a0";
  };
  field("clear").addEventListener("click", () => {
    panes.forEach(empty);
    field("prompt").focus();
  });
  for (const pane of panes) pane.select.addEventListener("change", () => empty(pane));
})();
