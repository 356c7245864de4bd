"use strict";
// One item at a time. All state is `state`; it is kept in localStorage under the study's hash.
(() => {
  const { study, pictures } = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const places = study.defences.length;
  const key = `bido-study-${study.hash}`;
  const pause = 180; // ms in which the choice is seen before the page moves on
  let storage = true;
  let at = 0;
  let shownSince = 0;
  let moving = null;

  const fresh = () => ({
    participant: Array.from(crypto.getRandomValues(new Uint8Array(6)), (b) => b.toString(16).padStart(2, "0")).join(""),
    started: new Date().toISOString(),
    choices: study.items.map(() => null), // null: open, 0: none of them, k: k-th picture
    seconds: study.items.map(() => 0),
  });

  const load = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(key));
      return kept && kept.choices.length === study.items.length ? kept : fresh();
    } catch { return fresh(); }
  };

  const keep = () => {
    try { localStorage.setItem(key, JSON.stringify(state)); } catch { storage = false; }
  };

  let state = load();
  const answered = () => state.choices.filter((choice) => choice !== null).length;
  const firstOpen = () => state.choices.indexOf(null);

  const buttons = study.items[0].order.map((_, place) => {
    const button = document.createElement("button");
    const number = document.createElement("kbd");
    button.type = "button";
    number.textContent = String(place + 1);
    number.setAttribute("aria-hidden", "true");
    button.append(document.createElement("img"), number);
    button.setAttribute("aria-label", `Picture ${place + 1}`);
    button.setAttribute("aria-keyshortcuts", String(place + 1));
    button.addEventListener("click", () => choose(place + 1));
    $("choices").append(button);
    return button;
  });

  const show = (name) => {
    for (const id of ["intro", "item", "done"]) $(id).hidden = id !== name;
    $("finish").hidden = name !== "item" || answered() === 0;
  };

  const go = (index) => {
    clearTimeout(moving);
    moving = null;
    if (index >= study.items.length) return finish();
    at = Math.max(0, index);
    $("private").src = pictures[at].private;
    buttons.forEach((button, place) => {
      const img = button.firstChild;
      img.src = pictures[at].choices[place];
      img.alt = "";
      img.draggable = false;
    });
    mark();
    show("item");
    arrange();
    $("question").focus({ preventScroll: true });
    shownSince = Date.now();
  };

  const mark = () => {
    const choice = state.choices[at];
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(choice === place + 1)));
    $("none").setAttribute("aria-pressed", String(choice === 0));
    $("bar").value = answered();
    $("count").textContent = `${at + 1} of ${study.items.length}`;
    $("back").disabled = at === 0;
    $("next").disabled = choice === null;
  };

  const choose = (choice) => {
    if (moving !== null) return; // a second tap while the page moves on is not an answer
    state.choices[at] = choice;
    state.seconds[at] += Math.round(Date.now() - shownSince) / 1000;
    keep();
    mark();
    moving = setTimeout(() => go(at + 1), pause);
  };

  const answers = () => ({
    format: "bido_ext.study_answers",
    version: 1,
    study,
    participant: state.participant,
    started: state.started,
    saved: new Date().toISOString(),
    complete: firstOpen() < 0,
    answers: study.items.flatMap((item, i) => state.choices[i] === null ? [] : [{
      label: item.label,
      choice: state.choices[i],
      defence: state.choices[i] === 0 ? null : study.defences[item.order[state.choices[i] - 1]],
      seconds: Number(state.seconds[i].toFixed(1)),
    }]),
  });

  const finish = () => {
    const open = study.items.length - answered();
    $("done-title").textContent = open ? "Not finished yet" : "Thank you!";
    $("summary").textContent = open
      ? `${answered()} of ${study.items.length} pictures are answered. You can save these now, or go on.`
      : `All ${study.items.length} pictures are answered. Please save your answers and hand the file to whoever asked you.`;
    $("review").textContent = open ? "Go on" : "Look at them again";
    $("text").value = JSON.stringify(answers());
    $("saved").textContent = "";
    show("done");
    $("done-title").focus({ preventScroll: true });
  };

  const save = () => {
    const name = `answers-${study.hash.slice(0, 8)}-${state.participant}.json`;
    const url = URL.createObjectURL(new Blob([JSON.stringify(answers(), null, 1)], { type: "application/json" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    $("saved").textContent = `Saved as ${name}. Look in your downloads.`;
  };

  // The largest square that fits `places` times: tried for every number of columns.
  const arrange = () => {
    const box = $("choices");
    const gap = 10;
    $("item").style.setProperty("--share", innerWidth < innerHeight ? `${places > 3 ? 2 : 1.2}fr` : `${places > 5 ? 1.8 : 1.1}fr`);
    const fits = (columns) => {
      const rows = Math.ceil(places / columns);
      return Math.min((box.clientWidth - gap * (columns - 1)) / columns, (box.clientHeight - gap * (rows - 1)) / rows);
    };
    const columns = study.defences.map((_, i) => i + 1).reduce((best, n) => (fits(n) > fits(best) ? n : best), 1);
    box.style.setProperty("--columns", columns);
    box.style.setProperty("--side", `${Math.max(48, Math.min(fits(columns), 260))}px`);
  };

  const start = () => go(firstOpen() < 0 ? study.items.length : firstOpen());

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || $("item").hidden) return;
    if (/^[0-9]$/.test(event.key) && Number(event.key) <= places) choose(Number(event.key));
    else if (event.key === "ArrowLeft" && at > 0) go(at - 1);
    else if (event.key === "ArrowRight" && state.choices[at] !== null) go(at + 1);
    else return;
    event.preventDefault();
  });
  addEventListener("resize", () => $("item").hidden || arrange());
  $("start").addEventListener("click", start);
  $("none").addEventListener("click", () => choose(0));
  $("back").addEventListener("click", () => go(at - 1));
  $("next").addEventListener("click", () => go(at + 1));
  $("finish").addEventListener("click", finish);
  $("save").addEventListener("click", save);
  $("review").addEventListener("click", () => go(Math.max(0, firstOpen())));
  $("restart").addEventListener("click", () => {
    if (!confirm("Forget all your answers and start anew?")) return;
    state = fresh();
    keep();
    begin();
  });

  const begin = () => {
    $("start").textContent = answered() ? `Continue (${answered()} of ${study.items.length} done)` : "Start";
    $("restart").hidden = answered() === 0;
    $("no-storage").hidden = storage;
    show("intro");
    $("start").focus();
  };
  keep();
  begin();
})();
