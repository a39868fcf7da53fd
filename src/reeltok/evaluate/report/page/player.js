"use strict";
/* Two videos on one canvas. Frames are sought, never free-running, so both always show the same. */

const Player = (() => {
  const by = (id) => document.getElementById(id);
  const stage = by("stage"), screen = by("screen"), handle = by("handle"), box = by("box");
  const pen = screen.getContext("2d");
  const state = {
    clip: null, frame: 0, shown: -1, split: 0.5, view: "divider", zoom: null, playing: false,
    serial: 0, sides: [null, null], names: ["", ""], listeners: [],
  };

  function open(address) {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: address });
    return { video, address, frame: -1 };
  }

  function ready(video) {
    return new Promise((done, fail) => {
      if (video.readyState >= 2) return done();
      video.addEventListener("loadeddata", done, { once: true });
      video.addEventListener("error", () => fail(new Error("cannot be played")), { once: true });
    });
  }

  async function seek(side, frame) {
    await ready(side.video);
    if (side.frame === frame) return;
    side.video.currentTime = (frame + 0.5) / state.clip.fps; // the middle: no rounding to a neighbour
    while (side.video.seeking) { // "seeked" may still be that of an earlier wish
      await new Promise((done) => side.video.addEventListener("seeked", done, { once: true }));
    }
    side.frame = frame;
  }

  async function show(frame) {
    const clip = state.clip, [left, right] = state.sides;
    if (!clip || !left || !right) return;
    state.frame = Math.min(Math.max(frame, 0), clip.frames - 1);
    const mine = ++state.serial, wanted = state.frame;
    try {
      await Promise.all([seek(left, wanted), seek(right, wanted)]);
    } catch {
      by("said").textContent = "This browser cannot play the videos of this clip.";
      return;
    }
    if (mine !== state.serial) return; // a later wish came in
    state.shown = wanted;
    draw();
    state.listeners.forEach((listener) => listener(state));
  }

  function draw() {
    const clip = state.clip, [left, right] = state.sides;
    if (!clip || state.shown < 0) return;
    const [x, y, w, h] = state.zoom || [0, 0, clip.width, clip.height];
    pen.imageSmoothingEnabled = !state.zoom;
    pen.globalCompositeOperation = "source-over";
    const put = (side) =>
      pen.drawImage(side.video, x, y, w, h, 0, 0, screen.width, screen.height);
    put(right);
    const heat = state.view === "heat";
    screen.classList.toggle("heat", heat);
    if (heat) {
      pen.globalCompositeOperation = "difference";
      put(left);
    } else {
      pen.save();
      pen.beginPath();
      pen.rect(0, 0, screen.width * state.split, screen.height);
      pen.clip();
      put(left);
      pen.restore();
    }
    handle.hidden = heat;
    const percent = Math.round(state.split * 100);
    handle.style.left = `${state.split * 100}%`;
    handle.setAttribute("aria-valuenow", percent);
    handle.setAttribute("aria-valuetext", `${percent} % ${state.names[0]}, the rest ${state.names[1]}`);
    by("tag-left").textContent = heat ? `${state.names[0]} − ${state.names[1]}` : state.names[0];
    by("tag-right").textContent = heat ? "" : state.names[1];
    by("seek").value = state.shown;
    by("frame").textContent = `${state.shown + 1} / ${clip.frames}`;
    screen.setAttribute("aria-label",
      `Frame ${state.shown + 1} of ${clip.frames}: ${state.names[0]} and ${state.names[1]}`);
  }

  function load(clip, addresses, names) {
    const same = state.clip && state.clip.name === clip.name;
    if (!same) {
      const scale = Math.max(1, Math.min(3, Math.floor(768 / clip.width)));
      screen.width = clip.width * scale;
      screen.height = clip.height * scale;
      state.zoom = null;
      state.shown = -1; // no frame of this clip yet
      by("zoom").setAttribute("aria-pressed", "false");
    }
    state.sides = addresses.map((address) =>
      state.sides.find((side) => side && side.address === address && same) || open(address));
    if (state.sides[0] === state.sides[1]) state.sides[1] = open(addresses[1]);
    state.clip = clip;
    state.names = names;
    by("seek").max = clip.frames - 1;
    return show(same ? state.frame : 0);
  }

  async function run() {
    const began = performance.now(), from = state.frame;
    while (state.playing && state.clip) {
      const passed = ((performance.now() - began) / 1000) * state.clip.fps;
      const next = (from + Math.max(1, Math.floor(passed))) % state.clip.frames;
      if (next !== state.frame) await show(next);
      await new Promise(requestAnimationFrame);
    }
  }

  function play(on = !state.playing) {
    if (on === state.playing) return;
    state.playing = on;
    by("play").textContent = on ? "Pause" : "Play";
    by("play").setAttribute("aria-pressed", on);
    if (on) run();
  }

  function step(by) {
    play(false);
    return show(state.frame + by);
  }

  function split(to) {
    state.split = Math.min(Math.max(to, 0), 1);
    draw();
  }

  function look(view) {
    state.view = view;
    by("view").value = view;
    draw();
  }

  function zoom(area) {
    state.zoom = area;
    by("zoom").setAttribute("aria-pressed", area !== null);
    draw();
  }

  function toggleZoom() {
    if (!state.clip) return;
    const { width, height } = state.clip;
    zoom(state.zoom ? null : [width * 3 / 8, height * 3 / 8, width / 4, height / 4]);
  }

  /* Pointer: the handle moves the divider, a drag on the picture draws the box to zoom into. */
  const at = (event) => {
    const edge = stage.getBoundingClientRect();
    return [(event.clientX - edge.left) / edge.width, (event.clientY - edge.top) / edge.height]
      .map((n) => Math.min(Math.max(n, 0), 1));
  };
  let held = null;
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    held = { from: at(event), handle: event.target === handle };
  });
  stage.addEventListener("pointermove", (event) => {
    if (!held) return;
    const [x, y] = at(event);
    if (held.handle) return split(x);
    const [u, v] = held.from;
    Object.assign(box.style, {
      left: `${Math.min(x, u) * 100}%`, top: `${Math.min(y, v) * 100}%`,
      width: `${Math.abs(x - u) * 100}%`, height: `${Math.abs(y - v) * 100}%`,
    });
    box.hidden = state.zoom !== null;
  });
  const release = (event) => {
    if (!held) return;
    const [x, y] = at(event), [u, v] = held.from;
    const moved = !held.handle && Math.abs(x - u) > 0.03 && Math.abs(y - v) > 0.03;
    if (moved && !state.zoom) {
      const { width, height } = state.clip;
      const side = Math.max(Math.abs(x - u), Math.abs(y - v)); // the picture keeps its shape
      zoom([Math.min(Math.min(x, u), 1 - side) * width, Math.min(Math.min(y, v), 1 - side) * height,
        side * width, side * height].map((n) => Math.max(0, n)));
    }
    box.hidden = true;
    held = null;
  };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);

  const keys = {
    " ": () => play(), ",": () => step(-1), ".": () => step(1), h: () => look(
      state.view === "heat" ? "divider" : "heat"), z: toggleZoom, Home: () => show(0),
    ArrowLeft: () => split(state.split - 0.05), ArrowRight: () => split(state.split + 0.05),
  };
  document.addEventListener("keydown", (event) => {
    const inside = stage.contains(event.target) || event.target === document.body;
    if (!inside || event.ctrlKey || event.metaKey || event.altKey) return;
    const digit = "123456789".indexOf(event.key);
    const press = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!press && digit < 0) return;
    event.preventDefault();
    if (press) press();
    else state.choose?.(digit);
  });
  by("play").addEventListener("click", () => play());
  by("back").addEventListener("click", () => step(-1));
  by("forth").addEventListener("click", () => step(1));
  by("zoom").addEventListener("click", toggleZoom);
  by("seek").addEventListener("input", (event) => { play(false); show(Number(event.target.value)); });
  by("view").addEventListener("change", (event) => look(event.target.value));

  return { state, load, show, play, step, split, look, zoom };
})();
