"use strict";
// What every page needs: the API with the session's word, forms that call it, moments in local time.

const tunesmith = (() => {
  let word = null;

  const project = () => document.getElementById("main").dataset.project;

  async function failure(answer) {
    let message = `The service answered ${answer.status}.`;
    try {
      message = (await answer.json()).error.message;
    } catch {
      // Not JSON: a proxy's page, or an answer that broke off.
    }
    const error = new Error(message);
    error.status = answer.status;
    return error;
  }

  async function csrf() {
    if (word === null) {
      const answer = await fetch("/tunesmith/v1/session", { headers: headers() });
      if (!answer.ok) throw await failure(answer);
      word = (await answer.json()).csrf_token;
    }
    return word;
  }

  function headers() {
    return project() ? { "OpenAI-Project": project() } : {};
  }

  // An answer that is not yet read; errors of the API are thrown in its words.
  async function ask(method, path, body, options = {}) {
    const sent = { method, headers: headers(), signal: options.signal };
    if (method !== "GET" && !options.open) sent.headers["x-csrf-token"] = await csrf();
    if (body instanceof FormData) sent.body = body;
    else if (body !== undefined) {
      sent.headers["Content-Type"] = "application/json";
      sent.body = JSON.stringify(body);
    }
    let answer;
    try {
      answer = await fetch(path, sent);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The service cannot be reached.");
    }
    if (!answer.ok) throw await failure(answer);
    return answer;
  }

  const json = async (...given) => (await ask(...given)).json();

  // With its progress, which fetch does not tell.
  async function upload(file, purpose, onProgress) {
    const form = new FormData();
    form.append("purpose", purpose);
    form.append("file", file, file.name);
    const given = { ...headers(), "x-csrf-token": await csrf() };
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", "/v1/files");
      for (const [name, value] of Object.entries(given)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
      request.onerror = () => reject(new Error("The service cannot be reached."));
      request.onload = () => {
        let body = null;
        try {
          body = JSON.parse(request.responseText);
        } catch {
          // Told below by the status.
        }
        if (request.status === 200 && body) resolve(body);
        else reject(new Error(body?.error?.message ?? `The service answered ${request.status}.`));
      };
      request.send(form);
    });
  }

  function show(error, place) {
    place.textContent = error ? error.message ?? String(error) : "";
    place.hidden = !error;
  }

  function chooseProject(id) {
    document.cookie = `tunesmith_project=${encodeURIComponent(id)}; path=/; samesite=strict; max-age=31536000`;
  }

  // Of whoever signs in next it may be none, and of what is archived there are no pages.
  function forgetProject(id) {
    const isIt = document.cookie.split("; ").includes(`tunesmith_project=${encodeURIComponent(id)}`);
    if (id === undefined || isIt) document.cookie = "tunesmith_project=; path=/; samesite=strict; max-age=0";
  }

  const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
  const short = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());

  function size(bytes) {
    if (!bytes) return "–";
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    const at = Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
    return `${(bytes / 1024 ** at).toFixed(at ? 1 : 0)} ${units[at]}`;
  }

  function duration(seconds) {
    if (seconds === null || seconds === undefined || seconds < 0) return "–";
    if (seconds < 60) return `${Math.round(seconds)} s`;
    if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
    return `${(seconds / 3600).toFixed(1)} h`;
  }

  function moment(seconds) {
    return new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  return { ask, json, upload, show, chooseProject, forgetProject, project, number, short, size, duration, moment, element };
})();

function bodyOf(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled || "skip" in field.dataset) continue;
    const kind = field.dataset.type;
    if (kind === "list") {
      // All boxes of a name together; none of them may mean that there is no list.
      body[field.name] ??= field.dataset.empty === "null" ? null : [];
      if (field.checked) body[field.name] = [...(body[field.name] ?? []), field.value];
    } else if (field.type === "checkbox") body[field.name] = field.checked;
    else if (field.value === "") {
      if (field.dataset.empty === "null") body[field.name] = null;
    } else if (kind === "number") body[field.name] = Number(field.value);
    else if (kind === "boolean") body[field.name] = field.value === "true";
    else body[field.name] = field.value;
  }
  return Object.keys(body).length ? body : undefined;
}

function after(form, then, answer) {
  const [what, target] = then.split(" ");
  if (what === "reload") location.reload();
  else if (what === "archived") {
    tunesmith.forgetProject(answer.id);
    location.reload();
  }
  else if (what === "go") location.assign(target.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(answer[name])));
  else if (what === "signed-in") location.assign(location.pathname === "/ui/sign-in" ? "/ui" : location.href);
  else if (what === "open-project") {
    tunesmith.chooseProject(answer.id);
    location.assign("/ui/project");
  } else if (what === "show-secret") {
    const place = form.querySelector("[data-secret]");
    place.querySelector("code").textContent = answer[target];
    place.hidden = false;
    place.querySelector("pre").focus();
    form.reset();
    // The page stays as it is, since the secret is on it; its list has one more.
    document.querySelector(form.dataset.list).dispatchEvent(new Event("refresh"));
  }
}

async function sendForm(form) {
  const [method, path] = form.dataset.api.split(" ");
  const error = form.querySelector(".error");
  const buttons = form.querySelectorAll("button");
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
  tunesmith.show(null, error);
  for (const button of buttons) button.disabled = true;
  try {
    const answer = await tunesmith.json(method, path, bodyOf(form), { open: form.dataset.then === "signed-in" });
    after(form, form.dataset.then, answer);
  } catch (problem) {
    tunesmith.show(problem, error);
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

function localTimes(root) {
  for (const one of root.querySelectorAll("time[data-time]")) {
    one.dateTime = new Date(Number(one.dataset.time) * 1000).toISOString();
    one.title = one.dateTime;
    one.textContent = tunesmith.moment(Number(one.dataset.time));
  }
}

// On a phone a row becomes a card: each cell has its column's heading beside it. Roles keep it a table to those who listen.
function cards(root) {
  for (const table of root.querySelectorAll(".scroll > table:not(.fits)")) {
    const headings = [...table.querySelectorAll("thead th")].map((one) => (one.querySelector(".hidden") ? "" : one.textContent));
    const role = (selector, name) => table.querySelectorAll(selector).forEach((one) => one.setAttribute("role", name));
    table.setAttribute("role", "table");
    role("thead, tbody, tfoot", "rowgroup");
    role("tr", "row");
    role("thead th", "columnheader");
    role("tbody th, tfoot th", "rowheader");
    role("td", "cell");
    for (const row of table.tBodies[0]?.rows ?? []) {
      [...row.cells].forEach((cell, at) => { if (headings[at]) cell.dataset.label = headings[at]; });
    }
    table.dataset.cards = "";
  }
}

function tabs(root) {
  const all = [...root.querySelectorAll("[role=tab]")];
  const choose = (tab) => {
    for (const one of all) {
      one.setAttribute("aria-selected", String(one === tab));
      one.tabIndex = one === tab ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = one !== tab;
    }
    tab.focus();
  };
  root.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab);
  });
  root.addEventListener("keydown", (event) => {
    const at = all.indexOf(event.target);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (at >= 0 && step) choose(all[(at + step + all.length) % all.length]);
  });
}

// Browsers give the clipboard to pages over TLS and of this machine alone; elsewhere the reader copies what is selected.
async function copied(place) {
  try {
    await navigator.clipboard.writeText(place.textContent);
    return "Copied";
  } catch {
    getSelection().selectAllChildren(place);
    return "The text is selected. Press Ctrl+C to copy it.";
  }
}

document.addEventListener("submit", (event) => {
  if (!event.target.dataset.api) return;
  event.preventDefault();
  sendForm(event.target);
});

document.addEventListener("click", async (event) => {
  const target = event.target.closest("button");
  if (!target) return;
  if ("themeSwitch" in target.dataset) {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    document.dispatchEvent(new Event("theme"));
  } else if ("menu" in target.dataset) {
    const isOpen = target.getAttribute("aria-expanded") === "true";
    target.setAttribute("aria-expanded", String(!isOpen));
  } else if ("signOut" in target.dataset) {
    try {
      await tunesmith.ask("DELETE", "/tunesmith/v1/session");
      tunesmith.forgetProject();
      location.assign("/ui/sign-in");
    } catch (error) {
      document.getElementById("toast").textContent = error.message;
    }
  } else if ("copy" in target.dataset) {
    document.getElementById("toast").textContent = await copied(target.closest(".copy").querySelector("code"));
  } else if (target.dataset.openProject) {
    tunesmith.chooseProject(target.dataset.openProject);
    location.assign("/ui/project");
  }
});

document.addEventListener("change", (event) => {
  if (!("chooseProject" in event.target.dataset)) return;
  tunesmith.chooseProject(event.target.value);
  location.assign("/ui");
});

function prepare() {
  localTimes(document);
  cards(document);
}

document.addEventListener("htmx:afterSwap", prepare);
prepare();
for (const one of document.querySelectorAll("[data-tabs]")) tabs(one);
