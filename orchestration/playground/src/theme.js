// Light or dark, before the first paint. A script of its own, because the page's policy allows none inside it.

const KEY = "agentbackend.playground.theme";

function kept() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function apply(theme) {
  document.documentElement.dataset.theme = theme;
}

const system = matchMedia("(prefers-color-scheme: dark)");
apply(kept() ?? (system.matches ? "dark" : "light"));
system.addEventListener("change", (change) => kept() ?? apply(change.matches ? "dark" : "light"));

document.addEventListener("click", (click) => {
  if (!(click.target instanceof Element) || !click.target.closest("[data-toggle-theme]")) return;
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  apply(theme);
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // no storage: the choice lasts as long as the page
  }
});
