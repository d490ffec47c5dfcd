// The reader's theme: the system's, or the one chosen by the button; loaded before the page is drawn.
(() => {
  "use strict";
  const themes = ["system", "light", "dark"];
  const key = "vrbench-theme";
  const read = () => {
    try {
      const kept = localStorage.getItem(key);
      return themes.includes(kept) ? kept : "system";
    } catch {
      return "system"; // a browser may keep nothing for files
    }
  };
  let theme = read();
  const show = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const label = document.querySelector("#theme span");
    if (label) label.textContent = theme;
  };
  show();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = themes[(themes.indexOf(theme) + 1) % themes.length];
      try {
        localStorage.setItem(key, theme);
      } catch {
        // it holds for this page alone
      }
      show();
    });
    show();
  });
})();
