"use strict";
// Shares of a deployment's requests between two models.

document.getElementById("traffic")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const first = form.querySelector("#first").value;
  const second = form.querySelector("#second").value;
  const share = Number(form.querySelector("#share").value);
  const traffic = second && second !== first ? { [first]: share, [second]: 100 - share } : { [first]: 100 };
  const error = form.querySelector(".error");
  tunesmith.show(null, error);
  try {
    await tunesmith.json("PATCH", `/tunesmith/v1/deployments/${encodeURIComponent(form.dataset.name)}`, { traffic });
    location.reload();
  } catch (problem) {
    tunesmith.show(problem, error);
  }
});
