"use strict";
// The page in the browser: draws the state that the server sends with each tick, in place, so that focus and scrolling
// stay; and sends what the visitor does as named actions. visits.py says what a state holds; seconds, P from 0 to 1.
const vcoPage = (() => {
  const NOTICE_MS = 8000, CAMERA_MS = 250, CAMERA_SIDE = 640, SCREEN_MS = 20, SEEK_MS = 6000, AWAY = 3, NEAR_SECONDS = 1.5, SPEEDS = [1, 2, 4, 0.5];
  const $ = id => document.getElementById("v-" + id), all = query => [...document.querySelectorAll(query)];
  const icon = name => `<svg class="v-i" aria-hidden="true"><use href="#i-${name}"/></svg>`;
  const safe = text => String(text).replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
  const stamp = t => `${Math.floor(t / 60)}:${String(Math.floor(t % 60)).padStart(2, "0")}`;
  const fine = t => `${stamp(t)}.${Math.floor(t * 10 + 1e-6) % 10}`;
  const percent = p => `${Math.round(100 * p)} %`;
  const isPhone = () => innerWidth < 1100;
  const cellWords = level => { const n = level.rows * level.columns; return `${n} cell${n > 1 ? "s" : ""}` };
  /** Words of an element, set only where they change: a screen reader says each once. */
  const say = (element, words, html = false) => {
    if (element.said === words) return;
    element.said = words;
    if (html) element.innerHTML = words; else element.textContent = words;
  };
  /** A parent's children, one a key, made once and then changed by `update`; what has no key any more goes. */
  const keyed = (parent, items, keyOf, make, update) => {
    const known = parent.known ??= new Map(), wanted = new Set(items.map(keyOf));
    for (const [key, element] of known) if (!wanted.has(key)) { element.remove(); known.delete(key) }
    items.forEach((item, place) => {
      const key = keyOf(item);
      if (!known.has(key)) {
        const element = make(item), before = items[place - 1];
        known.set(key, element);
        if (before) known.get(keyOf(before)).after(element); else parent.prepend(element);
      }
      update?.(known.get(key), item, place);
    });
    return known;
  };
  const kept = (store, name, value) => { // a browser may forbid its stores
    try { if (value === undefined) return store().getItem(name); if (value === null) store().removeItem(name);
      else store().setItem(name, value) } catch { return null }
  };
  const own = () => sessionStorage, everywhere = () => localStorage;

  let page, about, S = { id: null }, asleep = true, isChoosing = false, heard = null, held = null, opened = null;

  // ---- what the server says ----------------------------------------------------------------------------------------
  const begin = async link => {
    page = link; about = link.value.about;
    while (!$("wishes") || !$("settings-wrong")
      || !document.querySelector("#vco-wish input")) await new Promise(requestAnimationFrame);
    asleep = false; settle(); draw();
    const key = kept(own, "vco-session");
    if (key) page.send({ do: "resume", key });
  };
  const show = part => {
    if (asleep || !part) return;
    const { run: before, id, ended } = S;
    if (part.fault) fault(part.fault.at, part.fault.text); else if ("id" in part) clearFaults(part);
    S = { ...S, ...part, fault: null };
    if (S.id !== id || S.run !== before) {
      S.then = part.then ?? null; heard = null; closeCard(); closeSheet(); isChoosing = false; $("lanes").known?.clear();
      $("lanes").replaceChildren();
      if (part.source) look();
    }
    if ("id" in part && (S.id !== id || !S.id)) kept(own, "vco-session", S.id);
    if (part.saved) closeSheet();
    if (part.again) notice({ a: "Your video and dialogue are still here." });
    draw();
    if (part.ended && !ended) fault("start", part.ended);
  };
  const lastTurn = part => part.talk?.findLast(one => one.q)?.turn;
  const clearFaults = part => { if ((part.run || 0) !== (S.run || 0)) clearFault("start"); // 0: nothing watched yet
    if (lastTurn(part) !== lastTurn(S)) clearFault("question");
    if (part.wishes?.length !== S.wishes?.length) clearFault("wish") };

  // ---- mistakes, each at its place ---------------------------------------------------------------------------------
  const places = { question: ["wrong", "#vco-question input"], wish: ["wish-wrong", "#vco-wish input"],
    address: ["address-wrong", "#vco-url input"], settings: ["settings-wrong"] };
  const fault = (at, text) => {
    if (places[at]) {
      const [id, field] = places[at], words = $(id);
      words.innerHTML = icon("warn") + safe(text); words.hidden = false;
      if (field) { const input = document.querySelector(field); input.setAttribute("aria-invalid", "true");
        input.setAttribute("aria-describedby", words.id) }
      return;
    }
    if (opened && at === "start") return fault(opened, text);
    const [, name, rest] = /^(.{1,120}?:)(\s.*)$/s.exec(text) ?? [null, text, ""];
    const words = `${icon("warn")}<p><b>${safe(name)}</b>${safe(rest)}</p>`;
    if (!S.id || !S.source || isChoosing) { // ended, or a session is there and nothing watched yet
      const isFile = file.sent; file.sent = false;
      $("fault").innerHTML = words + (isFile ? '<button class="v-btn" data-do="file">Choose another file</button>'
        : ""); $("fault").hidden = false;
      $("file").classList.toggle("v-bad", !!isFile);
      $("file").querySelector("span span").textContent = isFile ? "the last one failed" : "or drop it here";
    } else { S.wrong = text; draw() }
  };
  const clearFault = at => {
    if (places[at]) { const [id, field] = places[at]; $(id).hidden = true;
      if (field) document.querySelector(field)?.removeAttribute("aria-invalid"); return }
    $("fault").hidden = true; S.wrong = null; $("file").classList.remove("v-bad");
    $("file").querySelector("span span").textContent = "or drop it here";
  };

  // ---- drawing -----------------------------------------------------------------------------------------------------
  const span = () => Math.max(S.duration || (S.id ? Math.max(S.position, 0.1) : 1), S.position || 0);
  const draw = () => {
    const has = !!(S.id && S.source), classes = document.body.classList;
    classes.toggle("v-first", !has || isChoosing); classes.toggle("v-watching", has && !isChoosing);
    classes.toggle("v-chosen", has);
    document.querySelector("[data-do=back]").hidden = !has; $("heading").hidden = !has || isChoosing;
    $("save").hidden = !has;
    document.body.style.setProperty("--now", has ? Math.min(1, S.position / span()) : 0);
    drawStage(has); drawTransport(has); drawMemory(has); drawWishes(has); drawTalk(has);
    if (has) say($("counters"),
      Object.entries(S.numbers).map(([name, value]) => `<div><dt>${name}</dt><dd>${safe(value)}</dd></div>`).join(""),
      true);
  };
  const drawStage = has => {
    if (!has) return say($("lost"), "", true);
    const away = S.seen && look.failed >= AWAY; // what was seen can always be fetched, but from a server that is gone
    const name = S.source[0].toUpperCase() + S.source.slice(1), gone = away || S.problem || S.state === "stalled"
      || S.state === "reconnecting";
    say($("source").lastChild,
      name + (gone ? " · no picture" : S.state === "over" ? " · ended" : S.state === "paused" ? " · paused" : ""));
    $("source").firstChild.className = "v-dot" + (gone ? " v-red" : S.state === "over" || S.state === "paused" ? " v-still" : "");
    const mine = S.source === "your camera" && !camera.on && S.state !== "over", at = `at ${stamp(S.position)}`;
    const what = S.wrong ? `<b>${safe(S.wrong)}</b>` : !gone ? "" : away ? "<b>The server does not answer.</b><br>The page goes on when it is back."
      : S.source === "your camera"
      ? `<b>The camera stopped sending ${at}.</b><br>The model keeps what it saw. You can go on asking.`
      : `<b>${safe(S.problem || name + " stands still")}</b><br>${S.seen ? "The model keeps what it saw. You can go on asking." : ""}`;
    const button = S.wrong
      ? `<button class="v-btn v-quiet v-icon" data-do="unwrong" aria-label="Close this notice">${icon("close")}</button>`
      : gone && (mine || S.state === "over") ? '<button class="v-btn" data-do="again">Try again</button>' : "";
    say($("lost"), what && `<div class="v-alert">${icon("warn")}<p>${what}</p>${button}</div>`, true);
    $("truth").hidden = !S.truth; say($("truth"), S.truth ? `What is to be seen: ${S.truth}` : "");
  };
  const drawTransport = has => {
    const stopped = S.state === "over", paused = S.state === "paused", play = $("play"), seek = $("seek");
    say(play, icon(!has || stopped || paused ? "play" : "pause"), true);
    play.setAttribute("aria-label", !has || stopped || paused ? "Play" : "Pause");
    play.disabled = !has || (S.live && !stopped); $("stop").disabled = !has || stopped;
    $("speed").disabled = !has || S.live || stopped; say($("speed"), `${S.speed || 1}×`);
    $("speed").setAttribute("aria-label", `Speed, ${S.speed || 1} times`);
    const total = has && S.duration ? `/ ${stamp(S.duration)}` : has ? "live" : "";
    say($("clock"), has ? `<b>${fine(S.position)}</b> <span class="v-muted">${total}</span>`
      : '<span class="v-muted">Nothing playing</span>', true);
    say($("clock2"), has ? `<b>${stamp(S.position)}</b> <span class="v-muted">${total}</span>` : "", true);
    seek.disabled = !has || !S.duration; seek.max = span();
    if (!has) return say($("marks"), "", true);
    const isThere = held?.isSent && Math.abs(S.position - held.at) < NEAR_SECONDS;
    if (isThere || performance.now() > held?.until) held = null;
    if (held === null) seek.value = S.position;
    seek.setAttribute("aria-valuetext", `${stamp(+seek.value)} of ${stamp(span())}`);
    say($("marks"), S.talk.map(one =>
      `<span class="v-mark ${one.event ? "v-bell" : ""}" style="left:${(one.t / span() * 100).toFixed(2)}%">${one.event ? icon("bell") : "?"}</span>`).join(""), true);
  };

  // ---- memory ------------------------------------------------------------------------------------------------------
  const SIZES = { wide: [[52, 64], [40, 52], [28, 42]], phone: [[72, 84], [56, 68], [48, 38]] };
  const sizeOf = (place, count) => SIZES[isPhone() ? "phone" : "wide"][count === 1 ? 0
    : Math.min(2, Math.round(2 * place / (count - 1)))];
  /** Middles of pictures at their times, pushed apart, then overlapped; none right of the playhead. */
  const spread = (times, width, scale, size, end) => {
    const room = Math.min(width, Math.max(end, size)),
      gap = Math.min(size + 3, (room - size) / Math.max(1, times.length - 1)), x = [];
    times.forEach((t, k) => x.push(Math.max(t * scale, size / 2, k ? x[k - 1] + gap : 0)));
    for (let k = x.length - 1, most = room - size / 2; k >= 0; k--) { x[k] = Math.min(x[k], most); most = x[k] - gap }
    return x;
  };
  const picture = (number, level) => `live/${S.id}/frames/${number}?run=${S.run}` + (level
    ? `&cells=${4 * level.columns}&rows=${4 * level.rows}` : "");
  const drawMemory = has => {
    const then = has && S.then, levels = has ? S.levels : about.levels, frames = then ? S.then.held : has ? S.held : [];
    const asked = then && S.talk.find(one => S.then.event ? one.event === S.then.event : one.turn === S.then.turn),
      now = then ? asked?.t ?? S.position : S.position || 0;
    $("then").hidden = !then; $("memsum").hidden = !!then;
    if (then) say($("then").firstChild,
      `As it was at <b class="v-num">${fine(now)}</b>, ${asked?.event ? `when it said “${safe(asked.a)}”` : `when you asked “${safe(asked?.q ?? "")}”`}`, true);
    say($("memsum"), has ? `${frames.length} frames of ${S.seen} seen. When a row is full, the frame most like its neighbour becomes coarser, then is forgotten.` : "The frames it keeps will stand here, each at its time: few sharp, more coarse.");
    $("lanes").style.setProperty("--now", has ? Math.min(1, now / span()) : 0);
    keyed($("lanes"), levels.map((level, place) => ({ ...level, place })),
      one => `${one.name}${one.rows}${one.capacity}`, makeLane, (row, level) => {
      const mine = frames.filter(frame => frame[2] === level.place), axis = row.children[1],
        [size, tall] = sizeOf(level.place, levels.length), width = axis.clientWidth, scale = width / span();
      const wide = Math.min(2 * size, size * level.columns / level.rows), count = `${mine.length} of ${level.capacity}`;
      row.style.setProperty("--tall", tall + "px"); say(row.querySelector("em"), count); say(row.lastChild, count);
      axis.setAttribute("aria-label", `${level.name} frames, ${count}; arrow keys move, Enter shows one`);
      const slots = has ? 0 : Math.min(level.capacity, 12), at = spread(mine.map(frame => frame[1]), width, scale, wide,
        now * scale - 3);
      keyed(axis.firstChild, [...Array(slots).keys()], k => k,
        () => Object.assign(document.createElement("i"), { className: "v-slot" }),
        (slot, _, k) => { slot.style.cssText = `left:${k * (wide + (level.place === levels.length - 1 && levels.length > 1 ? 12 : wide * .3))}px;width:${wide}px;height:${size}px` });
      keyed(axis.children[1], mine, frame => frame[0],
        () => Object.assign(document.createElement("i"), { className: "v-when" }),
        (dot, frame) => { dot.style.left = `${(frame[1] / span() * 100).toFixed(2)}%` });
      const buttons = keyed(axis.lastChild, mine, frame => frame[0], frame => makeHeld(frame, level),
        (button, frame, k) => {
        button.style.cssText = `left:${at[k].toFixed(1)}px;width:${wide}px;height:${size}px;--rows:${level.rows};--columns:${level.columns}` });
      const focus = [...buttons.values()], current = focus.find(one => one === document.activeElement) ?? focus.at(-1);
      focus.forEach(one => { one.tabIndex = one === current ? 0 : -1 });
    });
  };
  const makeLane = level => {
    const row = document.createElement("div"); row.className = "v-lane";
    row.innerHTML = `<div class="v-name"><b>${level.name}</b><span>${cellWords(level)} a frame</span><em class="v-small v-muted v-num"></em></div><div class="v-axis" role="group"><div style="display:contents"></div><div style="display:contents"></div><div style="display:contents"></div></div><div class="v-tail v-num"></div>`;
    row.children[1].onkeydown = event => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key],
        buttons = [...event.currentTarget.querySelectorAll(".v-held")].sort((a, b) => a.number - b.number);
      const next = buttons[buttons.indexOf(document.activeElement) + step];
      if (step && next) { event.preventDefault(); document.activeElement.tabIndex = -1; next.tabIndex = 0;
        next.focus() }
    };
    return row;
  };
  const makeHeld = ([number, t], level) => {
    const button = document.createElement("button"); button.className = "v-held v-grid"; button.number = number;
    button.title = `${fine(t)}: held as ${cellWords(level)}`; button.setAttribute("aria-label", button.title);
    button.innerHTML = `<img alt="" src="${picture(number, level)}">`;
    button.onclick = () => showCard(button, number, t, level);
    return button;
  };
  const showCard = (button, number, t, level) => {
    closeCard(); button.classList.add("v-on");
    const card = document.createElement("div"); card.className = "v-card"; card.setAttribute("role", "status");
    card.innerHTML = `<figure><div class="v-pic v-grid" style="--rows:${level.rows};--columns:${level.columns}"><img alt="the frame as it is held" src="${picture(number, level)}"></div><figcaption><b>As the model holds it</b>${cellWords(level)}, seen at ${fine(t)}</figcaption></figure><figure><div class="v-pic v-sharp"><img alt="the frame itself" src="${picture(number)}"></div><figcaption><b>The frame itself</b>not in memory</figcaption></figure>`;
    const memory = document.querySelector(".v-memory"), box = memory.getBoundingClientRect(),
      at = button.getBoundingClientRect(); memory.append(card);
    card.style.left = Math.max(178, Math.min(box.width - 178, at.x - box.x + at.width / 2)) + "px";
    card.style.bottom = box.bottom - at.top + 8 + "px";
  };
  const closeCard = () => { all(".v-card").forEach(one => one.remove());
    all(".v-held.v-on").forEach(one => one.classList.remove("v-on")) };

  // ---- tell me when ------------------------------------------------------------------------------------------------
  const drawWishes = has => {
    const wishes = has ? S.wishes : [], ideas = wishes.length ? [] : about.wishes;
    $("count").hidden = !wishes.length; say($("count"), String(wishes.length));
    keyed($("wishes"), wishes.length ? wishes : [{ key: "" }], one => one.key, makeWish, (row, wish) => {
      if (!wish.key) return row.querySelectorAll("button").forEach(one => { one.disabled = !has });
      const p = wish.p ?? 0, y = 100 - 100 * wish.threshold,
        times = ["silent so far", "spoke once", "spoke twice"][wish.fired.length] ?? `spoke ${wish.fired.length} times`;
      row.className = "v-lane" + (wish.paused ? " v-paused" : p >= wish.threshold ? " v-high" : "");
      say(row.querySelector("b"), wish.text); row.querySelector("b").title = wish.text;
      say(row.querySelector(".v-small"),
        wish.paused ? "paused" : `above ${percent(wish.threshold)} · ${times}${wish.once ? " · only once" : ""}`);
      say(row.querySelector(".v-p"), wish.p === null ? "–" : percent(p));
      const [base, limit, fill, line] = row.querySelectorAll("path"), range = row.querySelector("input");
      const d = wish.curve.map(([t, q], k) =>
        `${k ? "L" : "M"}${(t / span() * 1000).toFixed(1)} ${(100 - 100 * q).toFixed(1)}`).join(""),
        [first, last] = [wish.curve[0], wish.curve.at(-1)];
      if (document.activeElement !== range || !range.moving) range.value = Math.round(100 * wish.threshold);
      limit.setAttribute("d", `M0 ${100 - range.value}H1000`); line.setAttribute("d", d);
      base.setAttribute("d", "M0 100H1000");
      fill.setAttribute("d", last ? `${d}L${last[0] / span() * 1000} 100L${first[0] / span() * 1000} 100Z` : "");
      row.querySelector("svg.v-curve").setAttribute("aria-label", `Certainty over time, now ${percent(p)}`);
      keyed(row.querySelector(".v-moments"), wish.fired, one => one[0],
        ([t]) => { const dot = document.createElement("button"); dot.className = "v-fired"; dot.dataset.do = "fired";
        dot.title = `Spoke at ${fine(t)}`; dot.setAttribute("aria-label", `Spoke at ${fine(t)}: show it`); return dot },
        (dot, [t, q]) => { dot.dataset.event = S.talk.find(one => one.key === wish.key
          && Math.abs(one.t - t) < .01)?.event ?? "";
          dot.style.cssText = `left:${t / span() * 100}%;top:calc(5px + (100% - 10px)*${1 - q})` });
    });
  };
  const makeWish = wish => {
    const row = document.createElement("div"); row.className = "v-lane";
    if (!wish.key) {
      row.className += " v-ideas";
      row.innerHTML = `<span class="v-muted" style="font-size:13px">For example</span><div class="v-pills">${about.wishes.map(one => `<button class="v-pill" data-do="idea">${safe(one)}</button>`).join("")}</div>`;
      return row;
    }
    row.innerHTML = `<div class="v-wish"><div class="v-grow"><b></b><span class="v-small v-muted v-num"></span></div><button class="v-btn v-quiet v-icon" data-do="wish" data-key="${wish.key}" aria-haspopup="menu" aria-label="More for “${safe(wish.text)}”: only once, pause, remove">${icon("dots")}</button></div>
      <div class="v-axis"><svg class="v-curve" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img"><path stroke="var(--line)" vector-effect="non-scaling-stroke"/><path stroke="var(--warm-fill)" stroke-dasharray="5 4" stroke-width="1.3" vector-effect="non-scaling-stroke"/><path fill="var(--warm-fill)" opacity=".14"/><path fill="none" stroke="var(--warm-fill)" stroke-width="2" vector-effect="non-scaling-stroke" stroke-linejoin="round"/></svg>
      <input class="v-limit" type="range" min="5" max="95" aria-label="Speak above, for “${safe(wish.text)}”"><div class="v-moments" style="display:contents"></div></div><div class="v-tail"><div class="v-p v-num"></div>now</div>`;
    const range = row.querySelector("input");
    range.oninput = () => { range.moving = true; range.setAttribute("aria-valuetext", `${range.value} percent`);
      row.querySelectorAll("path")[1].setAttribute("d", `M0 ${100 - range.value}H1000`) };
    range.onchange = () => { range.moving = false;
      page.send({ do: "rule", key: wish.key, threshold: range.value / 100 }) };
    return row;
  };

  // ---- dialogue ----------------------------------------------------------------------------------------------------
  const drawTalk = has => {
    const log = $("log"), talk = has ? S.talk : [], atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    $("empty").hidden = talk.length > 0;
    say($("examples"), about.questions.map(one =>
      `<button class="v-pill" data-do="example">${safe(one)}</button>`).join(""), true);
    all("#v-examples button").forEach(one => { one.disabled = !has });
    keyed(log, talk, one => `${S.run}-${one.event ? "e" + one.event : "t" + one.turn}`, makeTurn, (entry, one) => {
      const isShown = S.then && (one.event ? S.then.event === one.event : S.then.turn === one.turn);
      entry.firstElementChild.classList.toggle("v-on", !!isShown);
      if (one.event) return;
      const answer = entry.lastElementChild, waits = !one.done && !one.a;
      answer.classList.toggle("v-wait", waits);
      say(answer.firstChild, one.a || (waits ? `Looking at ${S.held.length} frames…` : "(no words)"));
    });
    if (atEnd && has) log.scrollTop = log.scrollHeight;
    const said = talk.filter(one => one.event), newest = said.at(-1)?.event ?? 0;
    if (heard !== null && newest > heard) said.filter(one => one.event > heard && !one.quiet).forEach(notice);
    if (has) heard = Math.max(heard ?? 0, newest);
  };
  const makeTurn = one => {
    const entry = document.createElement("div"); entry.style.display = "contents";
    entry.innerHTML = one.event
      ? `<div class="v-unasked" data-event="${one.event}"><div class="v-why">${icon("bell")}<span><span class="v-num">${fine(one.t)}</span> · Unasked. You said: tell me when ${safe(one.wish)}</span></div>${safe(one.a || "(no room for words)")}<div class="v-row"><button class="v-btn v-quiet" data-do="moment" data-event="${one.event}">Show memory then</button><button class="v-btn v-quiet" data-do="less" data-key="${one.key}">Speak less often</button></div></div>`
      : `<button class="v-you" data-do="moment" data-turn="${one.turn}" title="Show what was in memory then"><span class="v-at">${fine(one.t)}</span>${safe(one.q)}</button><div class="v-says"><span></span></div>`;
    return entry;
  };

  // ---- notices -----------------------------------------------------------------------------------------------------
  const isOn = name => kept(everywhere, "vco-" + name) === "on";
  const notice = one => {
    const about = one.event
      ? `<br><span class="v-small v-muted v-num">${stamp(one.t)} · you said: tell me when ${safe(one.wish)}</span>`
      : "";
    $("toast").innerHTML = `<div class="v-toast">${icon(one.event ? "bell" : "info")}<p><b>${safe(one.a || one.wish)}</b>${about}</p>${one.event ? `<button class="v-btn v-quiet v-show" data-do="moment" data-event="${one.event}">Show</button>` : ""}<button class="v-btn v-quiet v-icon" data-do="untoast" aria-label="Close this notice">${icon("close")}</button></div>`;
    clearTimeout(notice.timer); notice.timer = setTimeout(() => $("toast").replaceChildren(), NOTICE_MS);
    if (one.event && isOn("sound")) beep();
    if (one.event && isOn("notices") && window.Notification?.permission === "granted") new Notification(one.a
      || one.wish, { body: `You said: tell me when ${one.wish}`, tag: "vco-" + one.event });
  };
  const beep = () => {
    const sound = beep.context ??= new AudioContext(), tone = sound.createOscillator(), loud = sound.createGain();
    tone.frequency.value = 660; loud.gain.setValueAtTime(.12, sound.currentTime);
    loud.gain.exponentialRampToValueAtTime(.001, sound.currentTime + .4);
    tone.connect(loud).connect(sound.destination); tone.start(); tone.stop(sound.currentTime + .4);
  };
  const settle = () => {
    say($("model"), `Model <b>${safe(about.model)}</b> · ${about.chip}`, true);
    settleSwitches();
    say($("length"), `${about.sample_seconds} seconds of coloured shapes. Nothing to set up.`);
    say($("note"), about.is_small
      ? `The loaded model, <b>${safe(about.model)}</b>, knows coloured shapes only. <button data-do="about" aria-haspopup="dialog">For real video, load a larger one</button>` : `The loaded model is <b>${safe(about.model)}</b>.`, true);
    say($("about"), `${about.model}: ${about.note || about.chip}`);
    say($("urls"), about.urls ? "A stream or a file that the server opens: RTSP, HTTP, HLS or UDP."
      : "Addresses are switched off on this server; its operator can allow them (--allow-urls).");
    document.body.dataset.tab ||= "chat";
    for (const [id, role, name] of [["chat", "complementary", "Dialogue"], ["tell", "region", "Tell me when"],
      ["about", "dialog", "The model"], ["address", "dialog", "A web address"], ["settings", "dialog", "Settings"]]) {
      const part = document.getElementById("vco-" + id); part.setAttribute("role", role);
      part.setAttribute("aria-label", name) }
    const question = document.querySelector("#vco-question input");
    question.placeholder ||= "Start a video first";
    document.querySelector("#vco-wish input").placeholder ||= "Start a video, then say what to look out for";
    question.addEventListener("focus",
      () => document.body.classList.toggle("v-typing", matchMedia("(pointer:coarse)").matches));
      question.addEventListener("blur", () => document.body.classList.remove("v-typing"));
    for (const at in places) { const [id, field] = places[at];
      if (field) document.querySelector(field).addEventListener("input", () => clearFault(at)) }
    all("#v-start button").forEach(one => { one.disabled = false });
    seeking($("seek")); dropping(document.querySelector(".v-stage"));
    $("pick").onchange = event => { const [one] = event.target.files; event.target.value = ""; if (one) file(one) };
  };

  // ---- what the visitor does ---------------------------------------------------------------------------------------
  const look = () => { // the picture on screen; as soon as it is there it fetches the next one
    const screen = $("screen"), address = `live/${S.id}/screen.jpg?${S.run}`, mine = look.mine = {}; look.failed = 0;
    const next = () => { if (look.mine === mine && S.id) screen.src = `${address}.${Date.now()}` };
    screen.onload = () => { look.failed = 0; const around = document.querySelector(".v-ambient");
      around.getContext("2d").drawImage(screen, 0, 0, 48, 48); setTimeout(next, SCREEN_MS) };
    screen.onerror = () => { // no broken picture over the stage
      screen.removeAttribute("src"); if (++look.failed === AWAY) draw(); setTimeout(next, 1000) };
    next();
  };
  const seeking = seek => {
    const hold = isSent => { held = { at: +seek.value, isSent, until: performance.now() + SEEK_MS } };
    const go = () => { hold(true);
      page.send({ do: "control", action: "seek", value: Math.min(+seek.value, S.duration) }) };
    seek.oninput = () => { hold(false);
      seek.setAttribute("aria-valuetext", `${stamp(+seek.value)} of ${stamp(span())}`) };
    seek.onchange = go;
    seek.onkeydown = event => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (!step) return;
      event.preventDefault(); seek.value = +seek.value + step; seek.oninput(); clearTimeout(seek.waits);
      seek.waits = setTimeout(go, 250);
    };
  };
  const dropping = stage => {
    stage.ondragover = event => { event.preventDefault(); stage.classList.add("v-dropping") };
    stage.ondragleave = () => stage.classList.remove("v-dropping");
    stage.ondrop = event => { event.preventDefault(); stage.classList.remove("v-dropping");
      const [one] = event.dataTransfer.files; if (one) file(one) };
  };
  const file = async one => {
    clearFault("start"); file.sent = true;
    if (one.size > about.upload_bytes) return fault("start",
      `${one.name}: has ${one.size.toLocaleString("en")} bytes, at most ${about.upload_bytes.toLocaleString("en")} are taken`);
    say($("length"), `Sending ${one.name} …`);
    try { const { path } = await page.upload(one); camera.stop();
      page.send({ do: "upload", file: { path, orig_name: one.name } }) }
    catch (error) { fault("start", `${one.name}: could not be sent (${error.message ?? error})`) }
    say($("length"), `${about.sample_seconds} seconds of coloured shapes. Nothing to set up.`);
  };
  const camera = {
    on: null,
    async start() {
      clearFault("start");
      if (!navigator.mediaDevices) return fault("start",
        "No camera: a browser gives its camera to pages on localhost or over https only.");
      let film;
      try { film = await navigator.mediaDevices.getUserMedia({ video: { width: CAMERA_SIDE } }) } catch (error) {
        return fault("start", `No camera: ${error.message}`) }
      camera.stop();
      const video = Object.assign(document.createElement("video"), { srcObject: film, muted: true, playsInline: true }),
        canvas = document.createElement("canvas");
      await video.play();
      let begins = true;
      const shoot = () => {
        const scale = Math.min(1, CAMERA_SIDE / Math.max(video.videoWidth, video.videoHeight));
        canvas.width = video.videoWidth * scale; canvas.height = video.videoHeight * scale;
        canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
        page.send({ do: "camera", frame: { url: canvas.toDataURL("image/jpeg", .85) }, begins }); begins = false;
      };
      camera.on = { film, timer: setInterval(shoot, CAMERA_MS) }; shoot();
      film.getTracks()[0].onended = () => camera.stop();
    },
    stop() { if (camera.on) { clearInterval(camera.on.timer); camera.on.film.getTracks().forEach(track => track.stop());
      camera.on = null } },
  };
  const watch = (request, more = {}) => { camera.stop(); clearFault("start");
    page.send({ do: "watch", request, ...more }) };
  const control = (action, value) => page.send({ do: "control", action, ...(value === undefined ? {} : { value }) });
  const nextSpeed = () => control("speed", SPEEDS[(SPEEDS.indexOf(S.speed) + 1) % SPEEDS.length]);
  const turn = name => { kept(everywhere, "vco-" + name, isOn(name) ? "off" : "on"); settleSwitches() };
  const settleSwitches = () => {
    for (const [name, words] of [["sound", "Sound"], ["notices", "Browser notices"]]) {
      const on = isOn(name), button = $(name);
      button.innerHTML = `${icon(name === "notices" ? "bell" : on ? "sound" : "mute")}${words} ${on ? "on" : "off"}`;
      button.setAttribute("aria-pressed", on);
    }
  };
  const actions = {
    sample: () => watch({ kind: "sample" }), world: () => watch({ kind: "shapeworld" }, { is_new: true }),
      camera: camera.start,
    file: () => $("pick").click(), address: () => openSheet("address"), about: () => openSheet("about"),
      settings: () => openSheet("settings"), close: () => closeSheet(),
    change: () => { isChoosing = true; clearFault("start"); draw(); document.querySelector(".v-go").focus() },
      back: () => { isChoosing = false; draw() },
    play: () => control(S.state === "over" || S.state === "paused" ? "play" : "pause"), stop: () => { camera.stop();
      control("stop") }, speed: nextSpeed,
    again: () => S.source === "your camera" ? camera.start() : control("play"), unwrong: () => { S.wrong = null;
      draw() }, untoast: () => $("toast").replaceChildren(),
    moment: ({ dataset: { turn, event } }) => {
      page.send({ do: "moment", ...(event ? { event: +event } : { turn: +turn }) }); if (isPhone()) tab("memory");
      $("toast").replaceChildren() },
    fired: ({ dataset: { event } }) => actions.moment({ dataset: { event } }), now: () => { S.then = null; closeCard();
      draw() },
    less: ({ dataset: { key } }) => { const wish = S.wishes.find(one => one.key === key);
      if (wish) page.send({ do: "rule", key, threshold: Math.min(.95, Math.round(100 * wish.threshold + 5) / 100) }) },
    idea: button => page.send({ do: "tell", text: button.textContent }),
      example: button => page.ask(button.textContent),
    tab: ({ dataset }) => tab(dataset.tab), skip: (_, event) => { event.preventDefault();
      document.querySelector("#vco-question input").focus() },
    sound: () => { turn("sound"); if (isOn("sound")) beep() },
    notices: async () => {
      if (!isOn("notices") && await window.Notification?.requestPermission() !== "granted") return notice({
      a: "The browser does not allow notices of this page." }); turn("notices") },
    save: button => menu(button,
      ["json", "srt"].map(kind => ({ name: kind === "json" ? "Dialogue as json" : "Dialogue as subtitles (srt)",
      href: `live/${S.id}/dialogue.${kind}`, file: `dialogue.${kind}` }))),
    wish: button => {
      const key = button.dataset.key, wish = S.wishes.find(one => one.key === key),
        rule = change => () => page.send({ do: "rule", key, ...change });
      menu(button, [{ name: "Only once", checked: wish.once, run: rule({ once: !wish.once }) },
        { name: wish.paused ? "Go on" : "Pause", run: rule({ paused: !wish.paused }) },
        { name: "Remove", run: () => page.send({ do: "drop", key }) }]);
    },
    more: button => menu(button, [
      ...(S.id && !isChoosing ? [{ name: "Stop", run: actions.stop },
        ...(S.speed && S.state !== "over" ? [{ name: `Speed: ${S.speed}×`, run: nextSpeed }] : []),
        { name: "Save dialogue as json", href: `live/${S.id}/dialogue.json`, file: "dialogue.json" },
        { name: "Save as subtitles (srt)", href: `live/${S.id}/dialogue.srt`, file: "dialogue.srt" }] : []),
      { name: "Sound", checked: isOn("sound"), run: actions.sound },
        { name: "Browser notices", checked: isOn("notices"), run: actions.notices },
        { name: "The model", run: actions.about }, { name: "Settings", run: actions.settings }]),
  };
  const tab = name => { document.body.dataset.tab = name;
    all(".v-tabs button").forEach(one => one.setAttribute("aria-selected", one.dataset.tab === name)); draw() };
  const menu = (anchor, items) => {
    closeMenu();
    const list = document.createElement("div"), at = anchor.getBoundingClientRect(); list.className = "v-menu";
    list.setAttribute("role", "menu"); list.setAttribute("aria-label", "Choose");
    for (const item of items) {
      const entry = document.createElement(item.href ? "a" : "button"); entry.textContent = item.name;
      entry.setAttribute("role", "checked" in item ? "menuitemcheckbox" : "menuitem");
      if ("checked" in item) entry.setAttribute("aria-checked", !!item.checked);
      if (item.href) Object.assign(entry, { href: item.href, download: item.file });
      entry.onclick = () => { closeMenu(); item.run?.() }; list.append(entry);
    }
    list.onkeydown = event => { const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], entries = [...list.children];
      if (step) { event.preventDefault();
      entries[(entries.indexOf(document.activeElement) + step + entries.length) % entries.length].focus() } if (event.key === "Tab") closeMenu() };
    list.anchor = anchor; document.querySelector(".gradio-container main").append(list);
    list.style.left = Math.max(8, Math.min(at.left, innerWidth - list.offsetWidth - 8)) + "px";
    list.style.top = (at.bottom + list.offsetHeight + 8 > innerHeight ? Math.max(8, at.top - list.offsetHeight - 4)
      : at.bottom + 4) + "px";
    list.firstChild.focus();
  };
  const closeMenu = () => all(".v-menu").forEach(one => { one.remove(); one.anchor.focus() });
  const sheetIs = (name, isOpen) => { // what lies below cannot be reached meanwhile
    document.getElementById("vco-" + name).classList.toggle("v-open", isOpen);
    for (const part of all(".v-top,#vco-main")) part.inert = isOpen;
  };
  const openSheet = name => {
    closeSheet();
    openSheet.from = document.activeElement; opened = name; sheetIs(name, true);
    document.querySelector(`#vco-${name} :is(input:not(:disabled),button)`).focus();
  };
  const closeSheet = () => {
    if (!opened) return;
    clearFault(opened); sheetIs(opened, false); opened = null;
    openSheet.from?.focus();
  };
  document.addEventListener("click", event => {
    const button = event.target.closest("[data-do]");
    if (!event.target.closest(".v-menu")) closeMenu();
    if (!event.target.closest(".v-card,.v-held")) closeCard();
    if (opened && !event.target.closest(".v-sheet") && !button) closeSheet();
    if (button && !button.disabled && !asleep) actions[button.dataset.do](button, event);
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") { const on = document.querySelector(".v-held.v-on");
      if (document.querySelector(".v-menu")) closeMenu(); else if (on) { closeCard(); on.focus() } else closeSheet() }
    if (event.key === "/" && !/INPUT|TEXTAREA/.test(event.target.tagName) && !opened) { event.preventDefault();
      if (isPhone()) tab("chat"); document.querySelector("#vco-question input").focus() }
  });
  addEventListener("resize", () => { if (!asleep) draw() });
  return { begin, show, state: () => S };
})();
