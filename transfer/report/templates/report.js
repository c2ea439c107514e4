"use strict";
// Sorting by a column's button, filtering rows by name. Numbers are in data-sort; first click on a
// number column sorts the largest first. Without this script all tables are complete.
(function () {
  var status = document.getElementById("status");

  function key(row, index) {
    var cell = row.cells[index];
    return cell.hasAttribute("data-sort") ? cell.getAttribute("data-sort") : cell.textContent.trim();
  }

  function compare(a, b) {
    var x = Number(a), y = Number(b);
    if (a !== "" && b !== "" && !isNaN(x) && !isNaN(y)) { return x - y; }
    return a.localeCompare(b, "en", { numeric: true });
  }

  function sortBy(table, header) {
    var index = header.cellIndex, body = table.tBodies[0];
    var before = header.getAttribute("aria-sort");
    var first = header.classList.contains("num") ? "descending" : "ascending";
    var other = first === "ascending" ? "descending" : "ascending";
    var order = before === first ? other : first;
    Array.prototype.forEach.call(header.parentNode.cells, function (cell) {
      cell.setAttribute("aria-sort", "none");
    });
    header.setAttribute("aria-sort", order);
    var sign = order === "ascending" ? 1 : -1;
    Array.prototype.slice.call(body.rows)
      .sort(function (a, b) { return sign * compare(key(a, index), key(b, index)); })
      .forEach(function (row) { body.appendChild(row); });
    status.textContent = "Sorted by " + header.textContent.trim() + ", " + order + ".";
  }

  document.querySelectorAll("table.sortable button.sort").forEach(function (button) {
    var header = button.closest("th"), table = button.closest("table");
    button.addEventListener("click", function () { sortBy(table, header); });
  });

  var filter = document.getElementById("filter");
  filter.addEventListener("input", function () {
    var wanted = filter.value.trim().toLowerCase(), shown = 0;
    document.querySelectorAll("tr[data-name]").forEach(function (row) {
      row.hidden = row.getAttribute("data-name").indexOf(wanted) < 0;
    });
    document.querySelectorAll("#main tbody tr").forEach(function (row) { shown += row.hidden ? 0 : 1; });
    status.textContent = wanted ? shown + " checkpoints shown." : "";
  });
}());
