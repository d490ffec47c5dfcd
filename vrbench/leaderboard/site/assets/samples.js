// The sample browser. All data come in scripts (see sample_data.py), items only when they come into view, and every
// text of theirs is set as text, never as markup.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const PAGE = 24;
  const LONG = 600;
  const browser = document.getElementById("browser");
  const settings = browser.dataset;
  const store = (self[settings.namespace] = self[settings.namespace] || {});
  const by = (id) => document.getElementById(id);
  const list = by("samples"), count = by("count"), where = by("where");
  const controls = { show: by("show"), group: by("group"), order: by("order"), search: by("search") };
  const index = store.index, ours = store[settings.ours], theirs = settings.theirs ? store[settings.theirs] : null;
  browser.hidden = false;
  if (!index || !ours || (settings.theirs && !theirs)) {
    count.textContent = "The samples could not be loaded; a file of this site is missing.";
    by("filters").hidden = true;
    return;
  }
  const n = index.ids.length, chunks = Math.ceil(n / index.chunk), graded = settings.unit === "percent";
  const right = Number(settings.right);
  const place = new Map(index.ids.map((id, i) => [id, i]));
  let chosen = [], page = 0, linked = -1, turn = 0, drawing = 0;

  // Items, a script of them at a time.
  const loading = new Map();
  const load = (k) => {
    if (!loading.has(k)) {
      loading.set(k, new Promise((done, failed) => {
        const script = document.createElement("script");
        script.src = `${settings.place}/items-${k}.js`;
        script.onload = () => (store[`items-${k}`] ? done() : failed(new Error(script.src)));
        script.onerror = () => { loading.delete(k); script.remove(); failed(new Error(script.src)); };
        document.head.append(script);
      }));
    }
    return loading.get(k);
  };
  const item = (i) => store[`items-${Math.floor(i / index.chunk)}`][i % index.chunk];
  const answer = (side, i) => side.texts[side.answer[i]];
  const raw = (side, i) => (side.said.length ? side.texts[side.said[i]] : answer(side, i));

  // Which samples are shown, in which order.
  const isRight = (side, i) => (side.score[i] === null ? null : side.score[i] >= right);
  const pair = (a, b) => (i) => theirs
    ? isRight(theirs, i) === a && isRight(ours, i) === b
    : isRight(ours, i) === b;
  const gap = (i) => (ours.score[i] === null || theirs.score[i] === null ? 0 : ours.score[i] - theirs.score[i]);
  const tests = {
    lost: graded ? pair(true, false) : (i) => gap(i) < 0,
    won: graded ? pair(false, true) : (i) => gap(i) > 0,
    wrong: pair(false, false),
    right: pair(true, true),
    differ: (i) => answer(ours, i) !== answer(theirs, i),
    unscored: (i) => ours.score[i] === null || (theirs !== null && theirs.score[i] === null),
  };
  const orders = {
    loss: (a, b) => gap(a) - gap(b) || a - b,
    gain: (a, b) => gap(b) - gap(a) || a - b,
    low: (a, b) => ours.score[a] - ours.score[b] || a - b,
  };
  const matches = (i, words) => {
    const [prompt, options, target] = item(i);
    const sides = theirs ? [ours, theirs] : [ours];
    const text = [index.ids[i], prompt, ...options, target, ...sides.map((side) => raw(side, i))].join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const choose = async () => {
    const mine = ++turn;
    const { show, group, order, search } = controls;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = [...Array(n).keys()];
    if (show.value) found = found.filter(tests[show.value]);
    if (group.value) found = found.filter((i) => index.group[i] === Number(group.value));
    if (words.length) {
      const needed = [...new Set(found.map((i) => Math.floor(i / index.chunk)))];
      for (const [at, k] of needed.entries()) {
        if (!store[`items-${k}`]) {
          count.textContent = `Searching, ${at + 1} of ${chunks} parts`;
          await load(k);
        }
        if (mine !== turn) return false; // another choice was made meanwhile
      }
      found = found.filter((i) => matches(i, words));
    }
    if (order && order.value) found.sort(orders[order.value]);
    chosen = found;
    return true;
  };

  // What is drawn.
  const make = (name, classes, ...children) => {
    const made = document.createElement(name);
    if (classes) made.className = classes;
    made.append(...children);
    return made;
  };
  const number = (value) => value.toLocaleString("en");
  const hash = (id) => {
    const kept = new URLSearchParams();
    for (const [name, control] of Object.entries(controls)) if (control && control.value) kept.set(name, control.value);
    if (id !== undefined) kept.set("id", id);
    return kept.toString();
  };
  const question = (text) => {
    const cut = text.length > LONG ? Math.max(text.lastIndexOf("\n\n", text.length - 40), 0) || text.length - LONG : 0;
    const parts = [make("p", "text", text.slice(cut).trim())];
    if (cut) {
      const before = make("p", "text", text.slice(0, cut));
      parts.unshift(make("details", "", make("summary", "", `What stands before (${number(cut)} characters)`), before));
    }
    return parts;
  };
  const options = (i, texts, target) => {
    if (texts.length === 1) return question(texts[0]); // a whole text whose likelihood is asked
    const made = make("ol", "options");
    made.type = "A";
    for (const text of texts) {
      const said = [];
      if (text === target) said.push("right answer");
      if (text === answer(ours, i)) said.push("candidate");
      if (theirs && text === answer(theirs, i)) said.push("baseline");
      made.append(make("li", "", text, ...(said.length ? [make("span", "mark", ` (${said.join(", ")})`)] : [])));
    }
    return texts.length ? [made] : [];
  };
  const verdict = (side, i) => {
    const score = side.score[i];
    if (score === null) return make("dd", "verdict-cell said-none", `– not scored${side.unscored[i] ? `: ${side.unscored[i]}` : ""}`);
    if (!graded) return make("dd", "verdict-cell", `${score.toFixed(3).replace("-", "−")} nats a word`);
    const part = score > 0 && score < 1 ? ` (${score.toFixed(2)})` : "";
    return isRight(side, i) ? make("dd", "verdict-cell said-right", `✓ right${part}`) : make("dd", "verdict-cell said-wrong", `✕ wrong${part}`);
  };
  const said = (side, i, who, name) => {
    const text = make("dd", "", answer(side, i) || (graded ? "(nothing)" : ""));
    if (raw(side, i) !== answer(side, i)) text.append(make("span", "raw", `said: ${raw(side, i)}`));
    const term = make("dt", "", who);
    term.title = name;
    return make("div", "", term, text, verdict(side, i));
  };
  const card = (i) => {
    const [prompt, choices, target, images] = item(i);
    const link = make("a", "", index.ids[i]);
    link.href = `#${hash(index.ids[i])}`;
    const title = make("h2", "", make("span", "", "sample ", link));
    const group = index.groups[index.group[i]];
    if (group) title.append(make("span", "", group));
    title.id = `sample-${i}`;
    const asked = make("div", "asked");
    if (images.length) {
      const shown = make("div", "images");
      images.forEach(([name, width, height], k) => {
        const image = make("img", width < 200 ? "tiny" : "");
        image.loading = "lazy";
        image.decoding = "async";
        image.width = Math.max(width, 128);
        image.height = Math.round(height * image.width / width);
        image.alt = images.length > 1 ? `Image ${k + 1} of the question` : "The image of the question";
        image.src = `${settings.place}/images/${name}`;
        shown.append(image);
      });
      asked.append(shown);
    }
    asked.append(make("div", "question", ...(prompt ? question(prompt) : []), ...options(i, choices, target)));
    const answers = make("dl", "answers");
    if (target) answers.append(make("div", "", make("dt", "", "right answer"), make("dd", "", target), make("dd", "")));
    answers.append(said(ours, i, theirs ? "candidate" : "answer", settings.oursName));
    if (theirs) answers.append(said(theirs, i, "baseline", settings.theirsName));
    const made = make("article", i === linked ? "sample linked" : "sample", title, asked, answers);
    made.tabIndex = -1;
    made.setAttribute("aria-labelledby", title.id);
    made.dataset.at = i;
    return make("li", "", made);
  };
  const cards = () => [...list.querySelectorAll(".sample")];
  const draw = async (focus) => {
    const mine = ++drawing;
    const pages = Math.max(1, Math.ceil(chosen.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const here = chosen.slice(page * PAGE, (page + 1) * PAGE);
    list.setAttribute("aria-busy", "true");
    await Promise.all([...new Set(here.map((i) => Math.floor(i / index.chunk)))].map(load));
    if (mine !== drawing) return; // another page was asked for meanwhile
    list.replaceChildren(...here.map(card));
    list.removeAttribute("aria-busy");
    list.start = page * PAGE + 1;
    count.textContent = chosen.length === n ? `All ${number(n)} samples` : `${number(chosen.length)} of ${number(n)} samples (${(100 * chosen.length / n).toFixed(1)} %)`;
    where.textContent = chosen.length ? `page ${number(page + 1)} of ${number(pages)}` : "no sample";
    by("first").disabled = by("previous").disabled = page === 0;
    by("next").disabled = by("last").disabled = page === pages - 1;
    const drawn = cards();
    const at = Math.max(drawn.findIndex((one) => Number(one.dataset.at) === linked), 0);
    if (drawn.length) drawn[at].tabIndex = 0;
    if (focus && drawn.length) (focus === "linked" ? drawn[at] : focus === "end" ? drawn.at(-1) : drawn[0]).focus();
  };
  const safely = (work) => work.catch((error) => {
    count.textContent = `A file of this site could not be loaded: ${error.message}`;
  });
  const show = async (focus) => { if (await choose()) { page = 0; await draw(focus); } };
  const go = (to, focus) => { page = to; return safely(draw(focus)); };

  // The address keeps the choice and, for a deep link, the sample.
  const remember = () => {
    const kept = hash();
    history.replaceState(null, "", kept ? `#${kept}` : location.pathname + location.search);
  };
  const recall = async () => {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const [name, control] of Object.entries(controls)) {
      if (!control) continue;
      const wanted = kept.get(name) || "";
      control.value = control.options && ![...control.options].some((one) => one.value === wanted) ? "" : wanted;
    }
    linked = kept.has("id") ? place.get(kept.get("id")) ?? -1 : -1;
    if (!(await choose())) return;
    let at = chosen.indexOf(linked);
    if (linked >= 0 && at < 0) { // the link's sample is shown whatever else is chosen
      for (const control of Object.values(controls)) if (control) control.value = "";
      if (!(await choose())) return;
      at = chosen.indexOf(linked);
    }
    page = at < 0 ? 0 : Math.floor(at / PAGE);
    await draw(at < 0 ? "" : "linked");
    if (kept.has("id") && linked < 0) count.textContent = `There is no sample ${kept.get("id")}. ${count.textContent}`;
  };

  if (index.groups.length > 1) {
    index.groups.forEach((name, k) => {
      const option = make("option", "", name || "(none)");
      option.value = String(k);
      controls.group.append(option);
    });
    by("group-label").hidden = false;
  }
  const tally = (option) => {
    const number_ = [...Array(n).keys()].filter(tests[option.value]).length;
    option.textContent += ` (${number(number_)})`;
    option.disabled = number_ === 0;
  };
  for (const option of controls.show.options) if (option.value) tally(option);

  let waiting = 0;
  const changed = () => { linked = -1; remember(); return safely(show("")); };
  for (const control of [controls.show, controls.group, controls.order]) if (control) control.addEventListener("change", changed);
  controls.search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(changed, 150); });
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  by("filters").addEventListener("reset", () => setTimeout(changed));
  const lastPage = () => Math.ceil(chosen.length / PAGE) - 1;
  const turns = { first: () => 0, previous: () => page - 1, next: () => page + 1, last: lastPage };
  for (const [name, to] of Object.entries(turns)) {
    by(name).addEventListener("click", () => { linked = -1; go(to(), "").then(() => list.scrollIntoView({ block: "nearest" })); });
  }
  list.addEventListener("keydown", (event) => {
    const all = cards(), at = all.indexOf(event.target);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const one = all[Math.min(Math.max(to, 0), all.length - 1)];
      for (const other of all) other.tabIndex = other === one ? 0 : -1;
      one.focus();
    } else if (event.key === "ArrowRight" && page < lastPage()) {
      event.preventDefault();
      go(page + 1, "start");
    } else if (event.key === "ArrowLeft" && page > 0) {
      event.preventDefault();
      go(page - 1, "start");
    }
  });
  window.addEventListener("hashchange", () => safely(recall()));
  safely(recall());
});
