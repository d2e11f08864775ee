"use strict";
// Upload of files, and training rows with what is learned of each in colour.

const PREVIEW_BYTES = 65536;
const PREVIEW_ROWS = 5;
const ANSWERS = ["completion", "response", "output", "answer", "label", "chosen"];

// The first bytes of a file of the service; the rest is not sent for.
async function firstBytes(fileId) {
  const stop = new AbortController();
  const answer = await tunesmith.ask("GET", `/v1/files/${encodeURIComponent(fileId)}/content`, undefined, { signal: stop.signal });
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { text: text + decoder.decode(), whole: true };
    text += decoder.decode(value, { stream: true });
    if (text.length >= PREVIEW_BYTES) {
      stop.abort();
      return { text, whole: false };
    }
  }
}

const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function turn(kind, role, content) {
  const mark = tunesmith.element("mark", { class: kind }, content === null || content === undefined ? "" : plain(content));
  return tunesmith.element("p", { class: "turn" }, tunesmith.element("b", {}, role), " ", mark);
}

// Only what the assistant says is learned; a weight of 0 takes that away.
function turns(messages, learned) {
  return messages.map((one) => {
    const isLearned = one.role === "assistant" && one.weight !== 0;
    return turn(isLearned ? learned : "read", one.role ?? "?", one.content ?? one.tool_calls ?? "");
  });
}

function parts(row) {
  if (Array.isArray(row.messages)) return turns(row.messages, "learned");
  if (row.input?.messages && row.preferred_output) {
    return [
      ...turns(row.input.messages, "read"),
      ...turns(row.preferred_output, "learned"),
      ...turns(row.non_preferred_output ?? [], "worse"),
    ];
  }
  return Object.entries(row).map(([key, value]) => {
    const kind = ANSWERS.includes(key) ? "learned" : key === "rejected" ? "worse" : "read";
    return turn(kind, key, value);
  });
}

function showRows(found, place) {
  place.replaceChildren();
  const lines = found.text.split("\n").filter((line) => line.trim());
  if (!found.whole) lines.pop();
  let shown = 0;
  for (const [at, line] of lines.slice(0, PREVIEW_ROWS).entries()) {
    let children;
    try {
      const row = JSON.parse(line);
      children = row && typeof row === "object" && !Array.isArray(row) ? parts(row) : [turn("read", "", row)];
    } catch {
      children = [turn("read", "", line.slice(0, 500))];
    }
    if (!children.length) children = [turn("read", "", line.slice(0, 500))];
    place.append(tunesmith.element("article", { class: "row" }, tunesmith.element("span", { class: "line-number" }, `${at + 1}`), ...children));
    shown += 1;
  }
  return shown;
}

async function uploadWith(input, progress, purpose = "fine-tune") {
  progress.hidden = false;
  progress.value = 0;
  try {
    return await tunesmith.upload(input.files[0], purpose, (part) => { progress.value = Math.round(part * 100); });
  } finally {
    progress.hidden = true;
  }
}

for (const form of document.querySelectorAll("[data-upload]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const error = form.querySelector(".error");
    tunesmith.show(null, error);
    try {
      const made = await uploadWith(form.querySelector("input"), form.querySelector("progress"), form.dataset.upload);
      location.assign(form.dataset.go + encodeURIComponent(made.id));
    } catch (problem) {
      tunesmith.show(problem, error);
    }
  });
}
