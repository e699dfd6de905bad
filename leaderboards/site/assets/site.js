"use strict";
// Sorting, filtering, the colour scheme, and the comparison of two records. Pages read well without it.

// ---- colour scheme: what the reader chose, or else what the system says

const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function remembered(value) {
  try {
    if (value) localStorage.setItem("theme", value);
    return localStorage.getItem("theme");
  } catch {
    return null; // storage may be forbidden, as for some pages opened from a folder
  }
}

if (["dark", "light"].includes(remembered())) document.documentElement.dataset.theme = remembered();

function startTheme() {
  const button = document.createElement("button");
  button.id = "theme";
  button.type = "button";
  const name = () => (button.textContent = dark() ? "Light" : "Dark");
  button.setAttribute("aria-label", "Switch between light and dark");
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    remembered(document.documentElement.dataset.theme);
    name();
  });
  document.querySelector("header").append(button);
  name();
}

// ---- tables

function valueOf(row, column) {
  const cell = row.cells[column];
  const given = "v" in cell.dataset ? cell.dataset.v : cell.textContent.trim();
  if (given === "" || given === "–") return null;
  return Number.isNaN(Number(given)) ? given.toLowerCase() : Number(given);
}

function compareValues(a, b) {
  if (a === null || b === null) return 0;
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

// What is missing goes last, whichever way the column is sorted.
function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.querySelector("tbody.rows");
  const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => (a === null) - (b === null) || (down ? -1 : 1) * compareValues(a, b));
  body.append(...rows.map(([, row]) => row));
}

function startSorting() {
  for (const table of document.querySelectorAll("table")) {
    if (!table.querySelector("tbody.rows") || table.querySelector("tbody.rows").rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent.trim();
      button.addEventListener("click", () => sortBy(table, column));
      head.replaceChildren(button);
    });
  }
}

function startFilters() {
  const form = document.getElementById("filters");
  if (!form) return;
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const part = wanted.method.trim().toLowerCase();
    let shown = 0, all = 0;
    for (const section of document.querySelectorAll("section.suite")) {
      section.hidden = Boolean(wanted.suite) && section.id !== wanted.suite;
      for (const row of section.querySelectorAll("tbody.rows > tr")) {
        const { method, arm, family } = row.cells[0].dataset;
        row.hidden = (wanted.arm && arm !== wanted.arm) || (wanted.family && family !== wanted.family) ||
          !method.toLowerCase().includes(part);
        all += 1;
        shown += !row.hidden && !section.hidden;
      }
    }
    form.querySelector("output").textContent = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}

// ---- two records

// Hexadecimal digits -> n booleans, the highest bit first.
function flags(digits, n) {
  return Array.from({ length: n }, (_, i) => Boolean((parseInt(digits[i >> 2], 16) >> (3 - (i & 3))) & 1));
}

// Exact two-sided McNemar test: how likely is a split as uneven as this if each of the n pairs falls either way by a
// toss of a coin? Terms of the binomial sum by logarithms, as 2 ** -n has no room in a number for large n.
function mcnemar(lost, gained) {
  const n = lost + gained, fewer = Math.min(lost, gained);
  let choose = 0, sum = 0; // choose: log of n over i
  for (let i = 0; i <= fewer; i++) {
    sum += Math.exp(choose - n * Math.LN2);
    choose += Math.log(n - i) - Math.log(i + 1);
  }
  return Math.min(1, 2 * sum);
}

// Counts of one measure where both records have it; `at` are the places where it happened in one record alone.
function paired(a, b, n, judgedA, judgedB) {
  const first = flags(a, n), second = flags(b, n);
  const known = (digits) => (digits ? flags(digits, n) : Array(n).fill(true));
  const inA = known(judgedA), inB = known(judgedB);
  const result = { n: 0, a: 0, b: 0, onlyA: [], onlyB: [] };
  for (let i = 0; i < n; i++) {
    if (!inA[i] || !inB[i]) continue;
    result.n += 1;
    result.a += first[i];
    result.b += second[i];
    if (first[i] && !second[i]) result.onlyA.push(i);
    if (!first[i] && second[i]) result.onlyB.push(i);
  }
  return result;
}

function measures(a, b, suite) {
  const unsafe = [suite.unsafe.length, a.judged_unsafe, b.judged_unsafe];
  const benign = [suite.benign.length, a.judged_benign, b.judged_benign];
  const found = [
    ["harmful, of unsafe prompts", paired(a.harmful, b.harmful, ...unsafe), suite.unsafe],
    ["refused, of unsafe prompts", paired(a.refusal, b.refusal, ...unsafe), suite.unsafe],
    ["refused, of benign prompts", paired(a.over_refusal, b.over_refusal, ...benign), suite.benign],
  ];
  suite.items.forEach(([domain, n], place) => {
    const both = a.skill[place] !== null && b.skill[place] !== null;
    if (both) found.push([`correct, of ${domain} items`, paired(a.skill[place], b.skill[place], n), null]);
  });
  return found;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function showP(p) {
  return p < 0.001 ? "< 0.001" : p.toFixed(3);
}

function showPair(a, b, suite) {
  const percent = (count, n) => (n ? ((100 * count) / n).toFixed(1) : "–");
  const body = document.querySelector("#pair-table tbody"), changed = document.getElementById("pair-changed");
  body.replaceChildren();
  changed.replaceChildren();
  for (const [name, counts, ids] of measures(a, b, suite)) {
    const change = counts.n ? (100 * (counts.b - counts.a)) / counts.n : 0;
    const head = element("th", name);
    head.scope = "row";
    const row = element("tr");
    row.append(head, ...[
      percent(counts.a, counts.n), percent(counts.b, counts.n),
      (change < 0 ? "−" : "+") + Math.abs(change).toFixed(1),
      counts.onlyA.length, counts.onlyB.length, showP(mcnemar(counts.onlyA.length, counts.onlyB.length)),
    ].map((text) => element("td", text, "n")));
    body.append(row);
    if (ids && counts.onlyA.length + counts.onlyB.length) {
      const more = element("details");
      more.append(element("summary", `Prompts that differ: ${name}`));
      for (const [who, places] of [["A", counts.onlyA], ["B", counts.onlyB]]) {
        if (places.length) more.append(element("p", `Only ${who}: ${places.map((place) => ids[place]).join(", ")}`));
      }
      changed.append(more);
    }
  }
  const names = document.getElementById("pair-names");
  names.replaceChildren("A is ", link(a), "; B is ", link(b), `; both under ${suite.name}.`);
  document.querySelector("#pair-table").parentElement.hidden = false;
}

function link(record) {
  const made = element("a", record.name);
  made.href = `records/${record.id}.html`;
  return made;
}

function startCompare() {
  const form = document.getElementById("pair");
  if (!form) return;
  const { suites, records } = JSON.parse(document.getElementById("outcomes").textContent);
  const byId = new Map(records.map((record) => [record.id, record]));
  const [first, second] = [form.elements.a, form.elements.b];
  // Only records of the same conditions can be paired, so B is offered those of A's.
  const fill = (select, among) => {
    const chosen = select.value;
    select.replaceChildren();
    suites.forEach((suite, place) => {
      const inside = among.filter((record) => record.suite === place);
      if (!inside.length) return;
      const group = element("optgroup");
      group.label = suite.name;
      group.append(...inside.map((record) => new Option(record.name, record.id)));
      select.append(group);
    });
    if (among.some((record) => record.id === chosen)) select.value = chosen;
  };
  const refill = () => {
    const record = byId.get(first.value), among = records.filter((other) => other.suite === record.suite);
    fill(second, among);
    if (second.value === record.id) second.value = partner(record, among).id;
  };
  const show = () => {
    const [a, b] = [byId.get(first.value), byId.get(second.value)];
    showPair(a, b, suites[a.suite]);
  };
  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B")); // an arm is called task+safety
    if (byId.has(asked.get("a"))) first.value = asked.get("a");
    refill();
    const there = [...second.options].map((option) => byId.get(option.value));
    second.value = (there.find((record) => record.id === asked.get("b")) || partner(byId.get(first.value), there)).id;
    show();
  };
  fill(first, records);
  form.addEventListener("input", (event) => {
    if (event.target === first) refill();
    show();
    location.replace(`#a=${first.value}&b=${second.value}`);
  });
  addEventListener("hashchange", read);
  form.hidden = false;
  read();
}

// What to compare a record with first: the same technique in another arm, else the next record.
function partner(record, among) {
  const title = (one) => one.name.split(" · ")[0];
  const others = among.filter((other) => other.id !== record.id);
  return others.findLast((other) => title(other) === title(record)) || others[0] || record;
}

addEventListener("DOMContentLoaded", () => {
  startTheme();
  startSorting();
  startFilters();
  startCompare();
});
