// The table: sorted by its headings, filtered by the form, in step with the plots. Without scripts it is a plain table.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const element = document.getElementById("board");
  if (!element || !window.DataTable) return;
  const form = document.getElementById("filters");
  const rows = element.tBodies[0].rows.length;
  const table = new window.DataTable(element, {
    paging: false, info: false, autoWidth: false, order: [], orderClasses: false,
    columnDefs: [ // given here, so that DataTables does not inspect every cell
      { targets: ["num", "quiet"], type: "num", searchable: false },
      { targets: "_all", type: "string" },
    ],
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    language: { zeroRecords: "No submission matches", emptyTable: "No submission" },
  });
  if (!form) return;
  const choices = [...form.querySelectorAll("[data-filter], [data-range]")];
  const search = document.getElementById("search");
  const count = document.getElementById("count");
  const points = [...document.querySelectorAll(".plot .point")];

  const kept = (row) => choices.every((choice) => {
    if (!choice.value) return true;
    if (choice.dataset.filter) return row.dataset[choice.dataset.filter] === choice.value;
    const [low, high] = choice.value.split(",").map(Number);
    const value = Number(row.dataset[choice.dataset.range]);
    return low <= value && value <= high;
  });
  const nameOf = (choice) => choice.dataset.filter || choice.dataset.range;

  const remember = () => {
    const kept = new URLSearchParams();
    if (search.value) kept.set("search", search.value);
    for (const choice of choices) if (choice.value) kept.set(nameOf(choice), choice.value);
    const hash = kept.toString();
    if (hash !== location.hash.slice(1)) history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
  };
  const recall = () => {
    const kept = new URLSearchParams(location.hash.slice(1));
    search.value = kept.get("search") || "";
    for (const choice of choices) {
      const wanted = kept.get(nameOf(choice)) || "";
      choice.value = [...choice.options].some((option) => option.value === wanted) ? wanted : "";
    }
  };
  const apply = () => {
    table.search(search.value).draw();
    const shown = table.rows({ search: "applied" }).nodes().toArray();
    const keys = new Set(shown.map((row) => row.dataset.key));
    for (const point of points) point.classList.toggle("away", !keys.has(point.dataset.key));
    count.textContent = keys.size === rows ? `All ${rows} submissions` : `${keys.size} of ${rows} submissions`;
  };

  table.search.fixed("filters", (_text, _data, index) => kept(table.row(index).node()));
  const changed = () => { apply(); remember(); };
  search.addEventListener("input", changed);
  for (const choice of choices) choice.addEventListener("change", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(changed));
  window.addEventListener("hashchange", () => { recall(); apply(); });
  recall();
  if (search.value || choices.some((choice) => choice.value)) apply();
  else count.textContent = `All ${rows} submissions`; // drawn already
  form.hidden = false;
});
