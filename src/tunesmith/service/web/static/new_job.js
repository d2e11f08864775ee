"use strict";
// A job in three steps. Whatever is chosen becomes the body of one request, which is estimated as it grows.

const at = (id) => document.getElementById(id);
const WAIT_MILLISECONDS = 500;
let usable = false;
let checks = 0;
let asked = 0;
let waiting = null;

const method = () => document.querySelector("[name=method]:checked").value;

// What is written as JSON may not say again what has a field of its own: one of the two would be lost.
function options() {
  const written = at("options").value.trim() ? JSON.parse(at("options").value) : {};
  if (typeof written !== "object" || written === null || Array.isArray(written)) {
    throw new Error('The further options are not an object, such as {"warmup": 0.05}.');
  }
  const found = { technique: at("technique").value };
  if (at("rank").value && hasRank()) found.rank = Number(at("rank").value);
  if (at("max-length").value) found.max_length = Number(at("max-length").value);
  if (at("budget").value) found.budget = at("budget").value;
  const validation = at("validation-choice").value;
  if (validation !== "auto" && !validation.startsWith("file-")) found.validation = Number(validation);
  const twice = Object.keys(written).filter((key) => key in found);
  if (twice.length) throw new Error(`The further options name what has a field here: ${twice.join(", ")}.`);
  return { ...written, ...found };
}

function hasRank() {
  return ["lora", "dora", "qlora", "qdora"].includes(at("technique").value);
}

function body() {
  const numbers = {};
  if (at("epochs").value) numbers.n_epochs = Number(at("epochs").value);
  if (at("batch").value) numbers.batch_size = Number(at("batch").value);
  if (at("rate").value) numbers.learning_rate_multiplier = Number(at("rate").value);
  if (method() === "dpo" && at("beta").value) numbers.beta = Number(at("beta").value);
  const made = {
    model: at("model").value,
    training_file: at("training-file").value,
    method: { type: method(), [method()]: { hyperparameters: numbers } },
    tunesmith: options(),
  };
  if (at("validation-choice").value.startsWith("file-")) made.validation_file = at("validation-choice").value;
  if (at("suffix").value) made.suffix = at("suffix").value;
  if (at("seed").value) made.seed = Number(at("seed").value);
  return made;
}

function facts(pairs) {
  const list = tunesmith.element("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    if (value !== null && value !== undefined && value !== "") {
      list.append(tunesmith.element("dt", {}, name), tunesmith.element("dd", {}, String(value)));
    }
  }
  return list;
}

function listOf(title, kind, texts) {
  if (!texts.length) return [];
  return [tunesmith.element("div", { class: `notice ${kind}` }, tunesmith.element("strong", {}, title),
    tunesmith.element("ul", {}, ...texts.map((text) => tunesmith.element("li", {}, text))))];
}

async function check() {
  const file = at("training-file").value;
  const place = at("check");
  const turn = ++checks;
  usable = false;
  if (!file) return;
  place.replaceChildren(tunesmith.element("p", { class: "muted" }, "Reading the rows…"));
  const wanted = { method: method() };
  const validation = at("validation-choice").value;
  if (validation.startsWith("file-")) wanted.validation_file = validation;
  else if (validation !== "auto") wanted.validation = Number(validation);
  try {
    const found = await tunesmith.json("POST", `/tunesmith/v1/files/${encodeURIComponent(file)}/check`, wanted);
    if (turn !== checks) return;
    usable = found.usable;
    showCheck(found, place);
    showRows(found.first_rows, at("rows"));
    at("preview").hidden = !found.first_rows.length;
  } catch (error) {
    if (turn !== checks) return;
    place.replaceChildren(tunesmith.element("p", { class: "notice bad" }, error.message));
    at("preview").hidden = true;
  }
}

function showCheck(found, place) {
  const problems = found.problems.map((one) => `${one.line ? `Line ${one.line}: ` : ""}${one.message}${one.rows > 1 ? ` (${one.rows} rows)` : ""}`);
  const split = found.split;
  place.replaceChildren(
    tunesmith.element("p", { class: `notice ${found.usable ? "good" : "bad"}` }, found.usable ? "This file can be trained on." : "This file cannot be used yet."),
    ...listOf("To mend", "bad", problems),
    ...listOf("To know", "warn", found.warnings),
    facts([
      ["Examples", tunesmith.number(found.examples)],
      ["Shape", found.shape],
      ["Task", found.task],
      ["Held out", split ? `${split.validation_rows} of ${split.training_rows + split.validation_rows} rows` : null],
      ["Labels", Object.keys(found.labels).length || null],
      ["In both files", found.overlap ? found.overlap.equal_rows : null],
    ]),
  );
}

function showPlan(found) {
  const plan = found.plan;
  at("plan").replaceChildren(
    tunesmith.element("h3", {}, "The plan"),
    ...(plan ? [tunesmith.element("p", { class: `notice ${plan.fits ? "good" : "bad"}` }, plan.fits ? "It fits into this machine." : "It does not fit into this machine.")] : []),
    facts([
      ["Tokens trained", `${tunesmith.number(found.trained_tokens)}${found.guessed ? " (guessed from letters)" : ""}`],
      ["Rows", `${tunesmith.number(found.training_rows)}, ${tunesmith.number(found.validation_rows)} held out`],
      ["Longest row", `${tunesmith.number(found.longest_row_tokens)} tokens`],
      ["Epochs", tunesmith.short(found.epochs)],
      ["Steps", tunesmith.number(found.steps)],
      ["Time", plan ? `about ${tunesmith.duration(plan.seconds.total)}` : null],
      ["Memory at most", plan ? tunesmith.size(plan.peak_memory_bytes) : null],
      ["Trained weights", plan ? `${tunesmith.number(plan.trained_parameters)} of ${tunesmith.number(plan.parameters)}` : null],
      ["Price", `${found.price.amount.toFixed(found.price.amount && found.price.amount < 1 ? 4 : 2)} ${found.price.currency}`],
    ]),
    ...listOf("To know", "warn", found.warnings),
  );
}

function showTokens(rows) {
  at("tokens").hidden = !rows.length;
  at("token-rows").replaceChildren(...rows.map((row) => {
    const trained = row.avoided ? "avoided" : "learned";
    const tokens = row.tokens.map((one) => tunesmith.element("mark", { class: one.trained ? trained : "read" }, one.text));
    return tunesmith.element("article", { class: "row" },
      tunesmith.element("span", { class: "line-number" }, String(row.line ?? "")), tunesmith.element("p", { class: "tokens" }, ...tokens));
  }));
}

async function estimate(exact = false) {
  // What was typed last is in this one.
  clearTimeout(waiting);
  const turn = ++asked;
  const place = at("plan");
  tunesmith.show(null, at("error-2"));
  place.setAttribute("aria-busy", "true");
  try {
    const wanted = body();
    if (exact) wanted.tunesmith.preview = true;
    const found = await tunesmith.json("POST", "/tunesmith/v1/estimates", wanted);
    if (turn !== asked) return;
    showPlan(found);
    showTokens(found.rows);
  } catch (error) {
    if (turn === asked) place.replaceChildren(tunesmith.element("h3", {}, "The plan"), tunesmith.element("p", { class: "notice bad" }, error instanceof SyntaxError ? "The further options are not JSON." : error.message));
  } finally {
    if (turn === asked) place.removeAttribute("aria-busy");
  }
}

function review() {
  const made = body();
  const numbers = made.method[method()].hyperparameters;
  at("review").replaceChildren(...facts([
    ["Training file", at("training-file").selectedOptions[0].textContent],
    ["Validation", at("validation-choice").selectedOptions[0].textContent],
    ["Method", made.method.type],
    ["Model", made.model],
    ["Technique", made.tunesmith.technique],
    ["Rank", made.tunesmith.rank],
    ["Epochs", numbers.n_epochs ?? "auto"],
    ["Rows a step", numbers.batch_size ?? "auto"],
    ["Learning rate, times", numbers.learning_rate_multiplier ?? "auto"],
    ["Name", made.suffix],
  ]).children);
  const { tunesmith: own, ...rest } = made;
  const lines = Object.entries(rest).map(([key, value]) => `    ${key}=${python(value)},`);
  at("as-program").textContent = `client.fine_tuning.jobs.create(\n${lines.join("\n")}\n    extra_body=${python({ tunesmith: own })},\n)`;
}

// JSON's texts and numbers are Python's as well; its other words are not.
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${python(one)}`).join(", ")}}`;
}

function go(step) {
  if (step >= 2 && (!at("training-file").value || !usable)) {
    tunesmith.show("Choose a file that can be trained on.", at("error-1"));
    at("training-file").focus();
    return;
  }
  tunesmith.show(null, at("error-1"));
  if (step === 3) {
    try {
      if (!at("model").value) throw new Error("Choose a model.");
      review();
    } catch (error) {
      tunesmith.show(error instanceof SyntaxError ? "The further options are not JSON." : error, at("error-2"));
      return;
    }
  }
  for (const one of document.querySelectorAll("[data-step]")) one.hidden = one.dataset.step !== String(step);
  for (const one of document.querySelectorAll("[data-step-mark]")) {
    if (one.dataset.stepMark === String(step)) one.setAttribute("aria-current", "step");
    else one.removeAttribute("aria-current");
    one.classList.toggle("done", Number(one.dataset.stepMark) < step);
  }
  at(`step-${step}`).focus();
  if (step === 2) estimate();
}

function choosing() {
  document.querySelector("[data-rank]").hidden = !hasRank();
  document.querySelector("[data-beta]").hidden = method() !== "dpo";
}

at("job").addEventListener("change", (event) => {
  choosing();
  if (["training-file", "validation-choice"].includes(event.target.id) || event.target.name === "method") check();
});
at("job").addEventListener("input", (event) => {
  if (!event.target.closest("[data-step='2']")) return;
  clearTimeout(waiting);
  waiting = setTimeout(estimate, WAIT_MILLISECONDS);
});
at("job").addEventListener("click", (event) => {
  const step = event.target.dataset.go;
  if (step) go(Number(step));
});
at("exact").addEventListener("click", async () => {
  at("exact").disabled = true;
  await estimate(true);
  at("exact").disabled = false;
});
at("new-file").addEventListener("change", async (event) => {
  if (!event.target.files.length) return;
  tunesmith.show(null, at("error-1"));
  try {
    const made = await uploadWith(event.target, at("upload-progress"));
    at("training-file").append(new Option(`${made.filename} (${tunesmith.size(made.bytes)})`, made.id, true, true));
    at("validation-choice").append(new Option(`File ${made.filename}`, made.id));
    await check();
  } catch (error) {
    tunesmith.show(error, at("error-1"));
  } finally {
    // The same file, mended, is a choice again.
    event.target.value = "";
  }
});
at("job").addEventListener("submit", async (event) => {
  event.preventDefault();
  // Enter within a field of an earlier step goes on, and starts nothing.
  const open = Number(document.querySelector("[data-step]:not([hidden])").dataset.step);
  if (open < 3) {
    go(open + 1);
    return;
  }
  const button = event.submitter;
  if (button) button.disabled = true;
  tunesmith.show(null, at("error-3"));
  try {
    const made = await tunesmith.json("POST", "/v1/fine_tuning/jobs", body());
    location.assign(`/ui/jobs/${made.id}`);
  } catch (error) {
    tunesmith.show(error, at("error-3"));
    if (button) button.disabled = false;
  }
});
choosing();
check();
