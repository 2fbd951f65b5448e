"use strict";
// The review page. Names reach the page as text only (textContent), never as markup.
(() => {
  const PAGE = 60;
  const FILTERS = {
    all: "all images", unmarked: "not marked", good: "good", verified: "verified", bad: "bad", relabelled: "relabelled", again: "to look at again",
  };
  const token = document.querySelector('meta[name="review-token"]').content;
  const $ = (id) => document.getElementById(id);
  const items = new Map(); // index → what the server said of it last
  const done = []; // marks of this window, for undo
  const truthSeen = new Set();
  let run, list = [], page = 0, at = -1; // at: position of the open image in `list`; -1 in the overview
  let chosen = null; // the class numbers of the relabel dialog
  let byPointer = false; // whether the last thing that was done was done with a mouse, pen or finger
  let asked = 0, shown = 0; // lists that were asked for, views that were begun: a late answer must not replace a newer one

  function node(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // ---------------------------------------------------------------- server

  async function ask(address, body) {
    const post = body && {
      method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", "X-Review-Token": token },
    };
    let answer;
    try {
      answer = await fetch(address, post || {});
    } catch {
      throw new Error("the review no longer runs; start `weakclip review` again and reload");
    }
    const value = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(value.detail), { status: answer.status });
    return value;
  }

  let timer;
  function say(text) {
    $("message").textContent = text;
    $("message").hidden = false;
    clearTimeout(timer);
    timer = setTimeout(() => { $("message").hidden = true; }, 5000);
  }
  const told = (work) => (...given) => work(...given).catch((error) => say(error.message));

  async function fetchItems(indices) {
    if (!indices.length) return;
    const answer = await ask(`/api/items?i=${indices.join(",")}`);
    for (const item of answer.items) items.set(item.index, item);
    showCounts(answer.counts);
  }

  function showCounts(counts) {
    const marked = counts.all - counts.unmarked;
    $("done").max = counts.all;
    $("done").value = marked;
    const rest = `of ${counts.all} left · ${counts.good} good · ${counts.verified} verified · ${counts.bad} bad · ${counts.relabelled} relabelled`;
    $("left").replaceChildren(node("b", "", counts.unmarked), ` ${rest}${counts.again ? ` · ${counts.again} to look at again` : ""}`);
  }

  // ---------------------------------------------------------------- filters, and the address that remembers them

  function remember() {
    const state = new URLSearchParams();
    if ($("by-mark").value !== "all") state.set("mark", $("by-mark").value);
    if ($("by-class").value) state.set("class", $("by-class").value);
    if ($("by-name").value) state.set("name", $("by-name").value);
    if (run.doubts && $("order").value !== "doubt") state.set("order", $("order").value);
    if (page) state.set("page", page + 1);
    if (at >= 0) state.set("image", list[at]);
    history.replaceState(null, "", `#${state}`);
  }

  const choose = told(async () => {
    const query = new URLSearchParams({
      mark: $("by-mark").value, class: $("by-class").value, name: $("by-name").value, order: $("order").value,
    });
    const turn = ++asked, answer = await ask(`/api/list?${query}`);
    if (turn !== asked) return;
    list = answer.indices; // stays as it is while images are marked, so that none is jumped over
    at = -1;
    await showPage(0, byPointer ? list[0] : undefined); // a key then marks an image, and changes no filter
  });

  // ---------------------------------------------------------------- all images

  async function showPage(number, focus) {
    const pages = Math.max(1, Math.ceil(list.length / PAGE));
    page = Math.min(Math.max(number, 0), pages - 1);
    const turn = ++shown, indices = list.slice(page * PAGE, (page + 1) * PAGE);
    await fetchItems(indices);
    if (turn !== shown) return;
    $("grid").replaceChildren(...indices.map(cell));
    $("empty").hidden = list.length > 0;
    $("pager").hidden = pages < 2;
    $("page-number").textContent = `page ${page + 1} of ${pages}`;
    $("page-back").disabled = page === 0;
    $("page-on").disabled = page === pages - 1;
    document.body.className = "";
    $("overview").hidden = false;
    $("viewer").hidden = true;
    remember();
    if (focus !== undefined) cellOf(focus)?.focus();
  }

  function cell(index) {
    const button = node("button");
    button.type = "button";
    button.dataset.index = index;
    const frame = node("span", "frame"), image = node("img");
    image.loading = "lazy";
    image.alt = "";
    image.src = `/thumb/${index}`;
    frame.append(image);
    button.append(frame, node("span", "title"), node("span", "words"), node("span", "badge"));
    dress(button);
    return button;
  }

  function dress(button) {
    const item = items.get(Number(button.dataset.index));
    button.className = `cell ${item.mark || ""}`;
    button.querySelector(".title").textContent = item.name;
    button.querySelector(".title").title = item.name;
    button.querySelector(".words").textContent = item.labels.map(nameOf).join(", ") || "no class";
    const badge = button.querySelector(".badge");
    badge.textContent = `${item.mark || ""}${item.again ? " · new mask" : ""}`;
    badge.hidden = !item.mark;
  }

  const cellOf = (index) => $("grid").querySelector(`[data-index="${index}"]`);
  const nameOf = (number) => run.classes[number].name;

  function step(from, key) {
    const cells = [...$("grid").children], here = cells.indexOf(from);
    const columns = cells.filter((each) => each.offsetTop === cells[0].offsetTop).length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
    if (here < 0) cells[0]?.focus();
    else cells[here + by]?.focus();
  }

  // ---------------------------------------------------------------- one image

  const open = told(async (position) => {
    if (position < 0 || position >= list.length) return say(position < 0 ? "this is the first one" : "this was the last one");
    at = position;
    const turn = ++shown, index = list[at];
    await fetchItems([index]);
    if (turn !== shown) return;
    document.body.className = "viewing";
    $("overview").hidden = true;
    if ($("viewer").hidden) scrollTo(0, 0);
    $("viewer").hidden = false;
    $("photo").src = `/image/${index}${sized()}`;
    $("photo").alt = `image ${items.get(index).name}`;
    showLayers();
    showItem();
    remember();
    if (document.activeElement === document.body || document.activeElement?.closest("[hidden]")) $("on").focus({ preventScroll: true });
    for (const next of list.slice(at + 1, at + 2)) new Image().src = `/image/${next}${sized()}`; // ahead of the reviewer
  });

  function showItem() {
    const item = items.get(list[at]);
    $("name").textContent = item.name;
    $("name").title = item.name;
    $("place").textContent = `${at + 1} of ${list.length}`;
    const gone = item.given.filter((number) => !item.labels.includes(number));
    const chips = [...item.labels, ...gone].map((number) => {
      const chip = node("span", gone.includes(number) ? "chip gone" : "chip", nameOf(number)), dot = node("i");
      dot.style.setProperty("--color", run.classes[number].color);
      chip.prepend(dot);
      return chip;
    });
    $("labels").replaceChildren(node("span", "", item.corrected ? "Labels, corrected:" : "Labels:"), ...(chips.length ? chips : ["no class"]));
    for (const button of document.querySelectorAll(".marks [data-mark]")) button.setAttribute("aria-pressed", String(button.dataset.mark === item.mark));
    $("clear").disabled = !item.mark && !item.corrected;
    $("state").textContent = [
      item.mark && item.by && item.by !== run.reviewer ? `marked by ${item.by}` : "",
      item.verified && item.mark !== "verified" ? "has a verified mask" : "",
      item.again ? "marked on an earlier mask; this one is new" : "",
    ].filter(Boolean).join(" · ");
  }

  function showLayers() {
    for (const side of ["left", "right"]) {
      const layer = $(`${side}-layer`).value, tag = $(`${side}-tag`), images = [...$(`${side}-side`).children];
      tag.textContent = layer;
      tag.className = "tag";
      for (const image of images) image.hidden = layer === "image";
      if (layer === "truth") truthSeen.add(list[at]);
      images[0].onerror = () => {
        for (const image of images) image.hidden = true;
        tag.textContent = `no ${layer}`;
        tag.className = "tag absent";
      };
      ["layer", "lines"].forEach((kind, place) => {
        if (layer === "image") images[place].removeAttribute("src");
        else images[place].src = `/${kind}/${list[at]}/${encodeURIComponent(layer)}${sized()}`;
      });
    }
    slide($("slider").value);
  }

  const sized = () => ($("compare").classList.contains("own") ? "?size=own" : "");

  function changeSize() {
    const own = $("compare").classList.toggle("own");
    $("size").setAttribute("aria-pressed", String(own));
    $("photo").src = `/image/${list[at]}${sized()}`;
    showLayers();
  }

  function slide(value) {
    const share = Math.min(100, Math.max(0, Math.round(Number(value))));
    $("slider").value = share;
    $("slider").setAttribute("aria-valuetext", `${share} % ${$("left-layer").value}, ${100 - share} % ${$("right-layer").value}`);
    $("divider").style.left = `${share}%`;
    $("left-side").style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    $("right-side").style.clipPath = `inset(0 0 0 ${share}%)`;
    $("left-tag").hidden = share < 12;
    $("right-tag").hidden = share > 88;
  }

  function drag(event) {
    const box = $("compare").getBoundingClientRect();
    slide((100 * (event.clientX - box.left)) / box.width);
  }

  // ---------------------------------------------------------------- marks

  const current = () => {
    const focused = document.activeElement?.closest?.(".cell");
    return at >= 0 ? list[at] : focused ? Number(focused.dataset.index) : null;
  };

  let marking = Promise.resolve();
  const mark = (...given) => { marking = Promise.allSettled([marking, markOne(...given)]); };
  const markOne = told(async (verdict, labels) => {
    const index = current();
    if (index === null) return say("choose an image first");
    const before = items.get(index), body = { image: index, mark: verdict, truth_seen: truthSeen.has(index) };
    if (labels !== undefined) body.labels = labels;
    const answer = await ask("/api/marks", body);
    done.push({ index, mark: before.mark, labels: before.corrected, after: answer.item.time });
    take(answer);
    if (verdict === null) return;
    if (at < 0) cellOf(index)?.nextElementSibling?.focus();
    else if (list[at] === index) await open(at + 1); // else the reviewer has gone on, and would jump over an image
  });

  function take(answer) {
    items.set(answer.item.index, answer.item);
    showCounts(answer.counts);
    $("undo").disabled = !done.length;
    const button = cellOf(answer.item.index);
    if (button) dress(button);
    if (at >= 0) showItem();
  }

  let undoing = Promise.resolve();
  // one after the other, and after the marks that wait for an answer: each needs the time of the one before
  const undo = () => { undoing = Promise.allSettled([undoing, marking]).then(undoOne); };
  const undoOne = told(async () => {
    const last = done.pop();
    $("undo").disabled = !done.length;
    if (!last) return say("nothing to undo");
    const { index, ...before } = last;
    const answer = await ask("/api/marks", { image: index, ...before, truth_seen: truthSeen.has(index), undo: true });
    take(answer);
    const position = list.indexOf(index);
    if (at >= 0 && position >= 0) await open(position);
    else if (position >= 0 && Math.floor(position / PAGE) !== page) await showPage(Math.floor(position / PAGE), index);
    else cellOf(index)?.focus();
    say(`undone: ${answer.item.name}`);
    const earlier = done.findLast((each) => each.index === index); // the image's state has a new time now
    if (earlier) earlier.after = answer.item.time;
  });

  function relabel() {
    const index = current();
    if (index === null) return say("choose an image first");
    chosen = new Set(items.get(index).labels);
    $("class-search").value = "";
    showClasses();
    $("relabel-dialog").returnValue = "";
    $("relabel-dialog").showModal();
  }

  function showClasses() {
    const text = $("class-search").value.toLowerCase();
    const found = run.classes.map((each, number) => [each.name, number]).slice(1).filter(([name]) => name.toLowerCase().includes(text));
    $("class-list").replaceChildren(...found.map(([name, number]) => {
      const label = node("label"), box = node("input");
      box.type = "checkbox";
      box.value = number;
      box.checked = chosen.has(number);
      label.append(box, node("span", "", name));
      return label;
    }));
    $("class-none").hidden = chosen.size > 0;
  }

  // ---------------------------------------------------------------- keys and buttons

  const KEYS = {
    g: () => mark("good"), v: () => mark("verified"), b: () => mark("bad"), r: relabel, u: undo,
    c: () => mark(null, null),
    "?": () => $("help-dialog").showModal(),
    "/": () => $("by-name").focus(),
    n: () => at < 0 && told(showPage)(page + 1, list[(page + 1) * PAGE]),
    p: () => at < 0 && told(showPage)(page - 1, list[(page - 1) * PAGE]),
    z: () => at >= 0 && changeSize(),
    ",": () => at >= 0 && slide(Number($("slider").value) - 5),
    ".": () => at >= 0 && slide(Number($("slider").value) + 5),
    Escape: () => at >= 0 && back(),
  };

  function back() {
    const index = list[at], number = Math.floor(at / PAGE);
    at = -1;
    told(showPage)(number, index);
  }

  addEventListener("pointerdown", () => { byPointer = true; }, true);
  addEventListener("keydown", () => { byPointer = false; }, true);
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (target.matches("input[type=search]")) {
      if (event.key === "Escape") target.blur();
      return;
    }
    const arrow = event.key.startsWith("Arrow");
    const isKey = target.matches(".controls select") && !arrow && event.key.length === 1 && event.key !== " ";
    if ((target.matches("select") && !isKey) || (arrow && target.matches("input[type=range]"))) return;
    const layer = run && at >= 0 && /^[1-9]$/.test(event.key) && run.layers[Number(event.key) - 1];
    if (arrow && at < 0) step(target.closest(".cell"), event.key);
    else if (arrow && ["ArrowLeft", "ArrowRight"].includes(event.key)) open(at + (event.key === "ArrowLeft" ? -1 : 1));
    else if (layer) {
      $("right-layer").value = layer;
      showLayers();
    } else if (KEYS[event.key]) KEYS[event.key]();
    else return;
    event.preventDefault();
  });

  $("grid").addEventListener("click", (event) => {
    const button = event.target.closest(".cell");
    if (button) open(list.indexOf(Number(button.dataset.index)));
  });
  $("class-list").addEventListener("change", (event) => {
    const number = Number(event.target.value);
    if (event.target.checked) chosen.add(number);
    else chosen.delete(number);
    $("class-none").hidden = chosen.size > 0;
  });
  $("class-search").addEventListener("input", showClasses);
  $("class-search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !$("class-search").value) return; // with nothing to find, Enter saves
    event.preventDefault();
    $("class-list").querySelector("input")?.click();
    $("class-search").value = "";
    showClasses();
  });
  $("relabel-given").addEventListener("click", () => {
    chosen = new Set(items.get(current()).given);
    showClasses();
  });
  let typing = null;
  $("relabel-dialog").addEventListener("close", () => {
    if ($("relabel-dialog").returnValue !== "save") return;
    const item = items.get(current()), numbers = [...chosen].sort((a, b) => a - b);
    if (String(numbers) !== String(item.given)) mark("relabel", numbers.map(nameOf));
    else if (item.corrected) mark(null, null);
    else say("these are the data set's labels; nothing to correct");
  });
  for (const id of ["by-mark", "by-class", "order"]) $(id).addEventListener("change", choose);
  $("by-name").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(choose, 200);
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const [id, work] of Object.entries({
    good: KEYS.g, verified: KEYS.v, bad: KEYS.b, relabel, clear: KEYS.c, undo, help: KEYS["?"], close: back, size: changeSize,
    back: () => open(at - 1), on: () => open(at + 1), "page-back": () => told(showPage)(page - 1), "page-on": () => told(showPage)(page + 1),
  })) $(id).addEventListener("click", work);
  for (const id of ["left-layer", "right-layer"]) $(id).addEventListener("change", showLayers);
  $("slider").addEventListener("input", () => slide($("slider").value));
  $("opacity").addEventListener("input", () => {
    $("compare").style.setProperty("--fill", $("opacity").value / 100);
  });
  $("photo").addEventListener("load", () => {
    $("compare").style.setProperty("--ratio", $("photo").naturalWidth / $("photo").naturalHeight);
    $("compare").style.setProperty("--wide", $("photo").naturalWidth);
  });
  $("photo").addEventListener("error", () => say("this image cannot be read"));
  $("compare").addEventListener("pointerdown", (event) => {
    $("compare").setPointerCapture(event.pointerId);
    drag(event);
  });
  $("compare").addEventListener("pointermove", (event) => event.buttons && drag(event));
  addEventListener("focus", told(async () => { // what another window marked meanwhile
    if (!run) return;
    await fetchItems(at >= 0 ? [list[at]] : list.slice(page * PAGE, (page + 1) * PAGE));
    for (const button of $("grid").children) if (items.has(Number(button.dataset.index))) dress(button);
    if (at >= 0) showItem();
  }));

  told(async () => {
    run = await ask("/api/run");
    showCounts(run.counts);
    const option = (value, text) => Object.assign(node("option", "", text), { value });
    $("by-mark").append(...Object.entries(FILTERS).map(([value, text]) => option(value, text)));
    $("by-class").append(...run.classes.slice(1).map((each) => option(each.name, each.name)));
    for (const side of ["left", "right"]) $(`${side}-layer`).append(...run.layers.map((layer) => option(layer, layer)));
    $("right-layer").value = run.layers.includes("pseudo mask") ? "pseudo mask" : run.layers[1];
    const state = new URLSearchParams(location.hash.slice(1));
    $("by-mark").value = state.get("mark") in FILTERS ? state.get("mark") : "all";
    if (run.classes.some((each) => each.name === state.get("class"))) $("by-class").value = state.get("class");
    $("by-name").value = state.get("name") || "";
    $("network").textContent = `The run's network: ${run.network}`;
    $("reviewer").textContent = run.reviewer && `as ${run.reviewer}`;
    $("order-choice").hidden = !run.doubts;
    $("order").value = run.doubts && state.get("order") !== "split" ? "doubt" : "split";
    const wanted = state.has("image") ? Number(state.get("image")) : -1, number = Number(state.get("page") || 1) - 1;
    await choose();
    if (list.includes(wanted)) await open(list.indexOf(wanted));
    else if (number > 0) await showPage(number);
  })();
})();
