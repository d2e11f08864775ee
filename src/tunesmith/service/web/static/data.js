"use strict";
// Upload of files, and the first rows of one with what is learned of each in colour.

// Rows as the service's check has read them; whatever it cannot read is told by the check, and nothing is guessed here.
function showRows(rows, place) {
  place.replaceChildren(...rows.map((row) => tunesmith.element("article", { class: "row" },
    tunesmith.element("span", { class: "line-number" }, String(row.line)),
    ...(row.problem === null ? row.parts.map(part) : [tunesmith.element("p", { class: "hint" }, row.problem)]))));
}

function part(one) {
  const more = one.left_out ? tunesmith.element("span", { class: "muted" }, ` and ${tunesmith.number(one.left_out)} more letters`) : "";
  return tunesmith.element("p", { class: "turn" }, tunesmith.element("b", {}, one.role), " ", tunesmith.element("mark", { class: one.kind }, one.text), more);
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
