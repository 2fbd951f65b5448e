"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const [NAME, HEIGHT, WIDTH, LABELS, DOUBT, CONFIDENCE, CRF, SEED, PREDICTION, TRUTH, ROWS] = Array(11).keys();
  const [INDEX, SHARE, SCORE, CLASS_CONFIDENCE, CLASS_SEED, CLASS_PREDICTION, CLASS_SEED_PREDICTION, CLASS_TRUTH] = Array(8).keys();
  const PAGE = 50;
  const byId = (id) => document.getElementById(id);

  // Every text becomes a text node: no name is ever read as markup.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (name.startsWith("--")) made.style.setProperty(name, value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  const percent = (mille) => (mille === null ? "–" : (mille / 10).toFixed(1));
  const area = (mille) => (mille > 0 && mille < 0.5 ? "< 0.1" : percent(mille));
  const row = (image, cls) => image[ROWS].find((entry) => entry[INDEX] === cls);
  const isMissed = (image, cls) => !(row(image, cls)?.[SHARE] > 0);
  const missed = (image) => image[LABELS].filter((cls) => isMissed(image, cls));
  const untagged = (image) => image[ROWS].some((entry) => entry[INDEX] && entry[SHARE] > 0 && !image[LABELS].includes(entry[INDEX]));
  const score = (image) => image[ROWS].reduce((most, entry) => (entry[SCORE] === null ? most : Math.max(most ?? 0, Math.abs(entry[SCORE]))), null);
  const foreground = (image) => 1000 - (row(image, 0)?.[SHARE] ?? 0);

  function chip(cls, isMissing = false) {
    const [name, color] = data.classes[cls];
    const mark = element("i", { "--color": color, "aria-hidden": "true" });
    return element("span", { class: isMissing ? "chip missing" : "chip" }, mark, isMissing ? `${name}: missing` : name);
  }

  // Pictures: one strip holds several, equally wide; each is shown by moving the strip behind a window.
  function pictures(index, lazy) {
    const image = data.images[index];
    const box = element("div", { class: "pictures" });
    data.strips.forEach(([folder, captions], strip) => {
      const source = data.embedded[index] ? data.embedded[index][strip] : address(folder, image[NAME]);
      captions.forEach((caption, place) => {
        const figure = element("figure", {}, element("figcaption", {}, caption));
        box.append(figure);
        if (source === null) return void figure.prepend(element("p", { class: "absent" }, "no picture"));
        const across = captions.length > 1 ? (100 * place) / (captions.length - 1) : 0;
        const picture = element("img", {
          alt: `${caption} of ${image[NAME]}`, loading: lazy ? "lazy" : null,
          "--across": `${across}%`, "--ratio": `${image[WIDTH]} / ${image[HEIGHT]}`,
          onerror: () => picture.replaceWith(element("p", { class: "absent" }, `not found: ${folder} lies beside this page in the run folder`)),
        });
        picture.src = source;
        figure.prepend(picture);
      });
    });
    return box;
  }

  const address = (folder, name) => `${folder}/${name.split("/").map(encodeURIComponent).join("/")}.jpg`;

  // Worst cases
  function facts(image) {
    const known = [["doubt", DOUBT], ["confidence", CONFIDENCE], ["CRF change", CRF], ["seed–mask", SEED],
      ["mask–network", PREDICTION], ["mask–truth", TRUTH]].filter(([, place]) => image[place] !== null);
    return known.map(([word, place]) => `${word} ${percent(image[place])}`).join(" · ");
  }

  function card(index) {
    const image = data.images[index];
    return element("li", { class: "case" },
      element("h3", {}, image[NAME]),
      element("p", { class: "chips" }, ...image[LABELS].map((cls) => chip(cls, isMissed(image, cls)))),
      pictures(index, false),
      element("p", { class: "facts" }, facts(image)));
  }

  function showKind(kind) {
    byId("kind-meaning").textContent = kind.found > kind.order.length
      ? `${kind.meaning} The worst ${kind.order.length} of ${kind.found.toLocaleString("en")}.` : kind.meaning;
    byId("cases").replaceChildren(...kind.order.map(card));
  }

  function buildKinds() {
    data.kinds.forEach((kind, place) => {
      const radio = element("input", { type: "radio", name: "kind", value: kind.key, checked: place === 0, onchange: () => showKind(kind) });
      byId("kinds").append(element("label", {}, radio, element("span", {}, kind.title)));
    });
    if (data.kinds.length) showKind(data.kinds[0]);
  }

  // The table of all images. `of` reads an image, `ofClass` the row of the chosen class; the first order is the worst first.
  const COLUMNS = [
    { key: "name", title: "Image", of: (image) => image[NAME], worst: 1 },
    { key: "missing", title: "Missing", of: (image) => missed(image).length, worst: -1,
      show: (image) => (missed(image).length ? missed(image).map((cls) => data.classes[cls][0]).join(", ") : "") },
    { key: "doubt", title: "Doubt", of: (image) => image[DOUBT], worst: -1 },
    { key: "share", title: "Area", of: foreground, ofClass: SHARE, worst: -1, text: area },
    { key: "score", title: "Area score", of: score, ofClass: SCORE, worst: -1,
      text: (tenths) => (tenths === null ? "–" : (tenths / 10).toFixed(1)), warn: (tenths) => Math.abs(tenths ?? 0) > data.unusual },
    { key: "confidence", title: "Confidence", of: (image) => image[CONFIDENCE], ofClass: CLASS_CONFIDENCE, worst: 1 },
    { key: "crf", title: "CRF change", of: (image) => image[CRF], worst: -1 },
    { key: "seed", title: "Seed–mask", of: (image) => image[SEED], ofClass: CLASS_SEED, worst: 1 },
    { key: "prediction", title: "Mask–network", of: (image) => image[PREDICTION], ofClass: CLASS_PREDICTION, worst: 1 },
    { key: "truth", title: "Mask–truth", of: (image) => image[TRUTH], ofClass: CLASS_TRUTH, worst: 1 },
  ].filter((column) => data.images.some((image) => column.of(image) !== null));
  const FINDINGS = {
    all: () => true,
    missing: (image) => missed(image).length > 0,
    unusual: (image) => (score(image) ?? 0) > data.unusual,
    untagged,
  };
  const state = { column: COLUMNS.find((column) => column.key === "doubt"), order: -1, cls: null, finding: "all", text: "", page: 0, open: new Set() };
  const collator = new Intl.Collator("en", { numeric: true });
  let found = [];

  function value(image, column) {
    if (state.cls === null || column.ofClass === undefined) return column.of(image);
    return row(image, state.cls)?.[column.ofClass] ?? null;
  }

  function select() {
    const text = state.text.toLowerCase();
    const shows = (image) => state.cls === null || image[LABELS].includes(state.cls) || row(image, state.cls)?.[SHARE] > 0;
    found = [...data.images.keys()].filter((index) => {
      const image = data.images[index];
      return FINDINGS[state.finding](image) && shows(image) && image[NAME].toLowerCase().includes(text);
    });
    const values = new Map(found.map((index) => [index, value(data.images[index], state.column)]));
    found.sort((one, other) => {
      const [a, b] = [values.get(one), values.get(other)];
      if (a === null || b === null) return (a === null) - (b === null) || one - other; // the unknown stays last
      return state.order * (typeof a === "string" ? collator.compare(a, b) : a - b) || one - other;
    });
    state.page = 0;
    render();
  }

  function render() {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const shown = found.slice(state.page * PAGE, (state.page + 1) * PAGE);
    byId("rows").replaceChildren(...shown.flatMap(tableRows));
    const range = found.length ? `${(state.page * PAGE + 1).toLocaleString("en")}–${(state.page * PAGE + shown.length).toLocaleString("en")} of ` : "";
    const noun = found.length === 1 ? "image" : "images";
    const subject = state.cls === null ? "" : `, figures of ${data.classes[state.cls][0]}`;
    byId("range").textContent = `${range}${found.length.toLocaleString("en")} ${noun}${subject}`;
    for (const button of document.querySelectorAll("[data-step]")) {
      const last = button.dataset.step < 0 ? state.page === 0 : state.page === pages - 1;
      button.setAttribute("aria-disabled", String(last)); // not `disabled`, which would take the focus away
    }
    for (const [place, column] of COLUMNS.entries()) {
      const isSorted = column === state.column;
      byId("head").cells[place].setAttribute("aria-sort", isSorted ? (state.order < 0 ? "descending" : "ascending") : "none");
    }
  }

  function tableRows(index) {
    const image = data.images[index];
    const isOpen = state.open.has(index);
    const toggle = element("button", { type: "button", class: "name", "aria-expanded": String(isOpen), onclick: () => flip(index, toggle) }, image[NAME]);
    const labels = element("span", { class: "chips" }, ...image[LABELS].map((cls) => chip(cls)));
    const cells = COLUMNS.slice(1).map((column) => {
      const number = value(image, column);
      if (column.show) return element("td", { class: "warn" }, column.show(image));
      return element("td", { class: column.warn?.(number) ? "number warn" : "number" }, (column.text ?? percent)(number));
    });
    const made = [element("tr", {}, element("th", { scope: "row" }, toggle, labels), ...cells)];
    if (isOpen) made.push(details(index));
    return made;
  }

  function flip(index, toggle) {
    const line = toggle.closest("tr");
    const isOpen = state.open.delete(index);
    if (isOpen) line.nextElementSibling.remove();
    else line.after((state.open.add(index), details(index)));
    toggle.setAttribute("aria-expanded", String(!isOpen));
  }

  function details(index) {
    const image = data.images[index];
    const columns = [["Class"], ["Area", SHARE], ["Area score", SCORE], ["Confidence", CLASS_CONFIDENCE], ["Seed–mask", CLASS_SEED],
      ["Mask–network", CLASS_PREDICTION], ["Seed–network", CLASS_SEED_PREDICTION], ["Mask–truth", CLASS_TRUTH]].filter(([, place]) => place === undefined || image[ROWS].some((entry) => entry[place] !== null));
    const head = element("tr", {}, ...columns.map(([title, place]) => element("th", { scope: "col", class: place === undefined ? null : "number" }, title)));
    const body = image[ROWS].map((entry) => element("tr", {},
      element("th", { scope: "row" }, chip(entry[INDEX], image[LABELS].includes(entry[INDEX]) && !(entry[SHARE] > 0))),
      ...columns.slice(1).map(([, place]) => element("td", { class: "number" },
        place === SHARE ? area(entry[place]) : place === SCORE ? (entry[place] === null ? "–" : (entry[place] / 10).toFixed(1)) : percent(entry[place])))));
    const table = element("table", {}, element("caption", { class: "hidden" }, `Classes of ${image[NAME]}`), element("thead", {}, head), element("tbody", {}, ...body));
    return element("tr", { class: "details" }, element("td", { colspan: COLUMNS.length }, element("div", { class: "inside" }, pictures(index, true), table)));
  }

  function sortBy(column) {
    state.order = column === state.column ? -state.order : column.worst;
    state.column = column;
    select();
  }

  function buildTable() {
    for (const column of COLUMNS) {
      const button = element("button", { type: "button", onclick: () => sortBy(column) }, column.title);
      byId("head").append(element("th", { scope: "col", class: column.key === "name" || column.key === "missing" ? null : "number" }, button));
    }
    data.classes.forEach(([name], cls) => byId("by-class").append(element("option", { value: cls }, name)));
    byId("by-class").addEventListener("change", (event) => chooseClass(event.target.value));
    byId("by-finding").addEventListener("change", (event) => { state.finding = event.target.value; select(); });
    byId("by-name").addEventListener("input", (event) => { state.text = event.target.value; select(); });
    for (const button of document.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => {
        if (button.getAttribute("aria-disabled") === "true") return;
        const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
        state.page = Math.min(last, Math.max(0, state.page + Number(button.dataset.step)));
        render();
        byId("table").scrollTop = 0;
      });
    }
    select();
  }

  function chooseClass(text) {
    state.cls = text === "" ? null : Number(text);
    select();
  }

  // The table of classes came with the page; its headers sort its rows.
  function sortRows(table, place, header) {
    const order = header.getAttribute("aria-sort") === "descending" ? 1 : header.getAttribute("aria-sort") === "ascending" ? -1 : Number(header.dataset.worst);
    const key = (line) => line.cells[place].dataset.value;
    const lines = [...table.tBodies[0].rows].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return order * (place === 0 ? collator.compare(a, b) : a - b);
    });
    for (const cell of header.parentElement.cells) cell.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", order < 0 ? "descending" : "ascending");
    table.tBodies[0].append(...lines);
  }

  function buildClasses() {
    const table = byId("class-table");
    if (!table) return;
    [...table.tHead.rows[0].cells].forEach((header, place) => {
      header.querySelector("button")?.addEventListener("click", () => sortRows(table, place, header));
    });
    for (const button of table.querySelectorAll("[data-class]")) {
      button.addEventListener("click", () => {
        byId("by-class").value = button.dataset.class;
        chooseClass(button.dataset.class);
        byId("images").scrollIntoView();
        byId("by-class").focus({ preventScroll: true });
      });
    }
  }

  if (data.images.length) {
    buildKinds();
    buildTable();
    buildClasses();
  }
  document.documentElement.dataset.ready = "yes";
})();
