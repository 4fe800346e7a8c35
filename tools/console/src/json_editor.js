// Turns each textarea marked `data-editor="json"` into an editor with line numbers, colours, and JSON errors where they stand.
// The textarea stays and holds the text: without this script the form works as it is.

import { history, historyKeymap, standardKeymap } from "@codemirror/commands";
import { json, jsonParseLinter } from "@codemirror/lang-json";
import { bracketMatching, foldGutter, foldKeymap, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { lintGutter, linter, lintKeymap } from "@codemirror/lint";
import { EditorState } from "@codemirror/state";
import { EditorView, drawSelection, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";

import { colours, theme } from "./theme.js";

const LINT_AFTER_MILLISECONDS = 300;

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", enhanceAll);
else enhanceAll();

function enhanceAll() {
  for (const textarea of document.querySelectorAll('textarea[data-editor="json"]')) enhance(textarea);
}

function enhance(textarea) {
  const label = document.querySelector(`label[for="${CSS.escape(textarea.id)}"]`);
  const view = new EditorView({
    state: EditorState.create({ doc: textarea.value, extensions: extensions(textarea, labelText(label) || textarea.name) }),
  });
  textarea.before(view.dom);
  textarea.style.display = "none";
  label?.addEventListener("click", () => view.focus()); // the textarea, which it names, cannot take the focus any more
  view.dom.after(tidyButton(view));
  if (textarea.dataset.templates) offerTemplates(textarea, view);
}

function extensions(textarea, name) {
  return [
    lineNumbers(),
    foldGutter(),
    history(),
    drawSelection(),
    indentOnInput(),
    indentUnit.of("  "),
    bracketMatching(),
    highlightActiveLine(),
    EditorView.lineWrapping,
    syntaxHighlighting(colours),
    json(),
    linter(problems, { delay: LINT_AFTER_MILLISECONDS }),
    lintGutter(),
    keymap.of([...standardKeymap, ...historyKeymap, ...foldKeymap, ...lintKeymap]), // Tab leaves the editor: it is part of a form
    EditorView.contentAttributes.of({ "aria-label": name }),
    EditorView.updateListener.of((update) => update.docChanged && keep(textarea, update.state.doc.toString())),
    theme,
  ];
}

const parsed = jsonParseLinter();

/** Where the text is no JSON; nothing where it is empty, which the form itself judges. */
function problems(view) {
  return view.state.doc.toString().trim() === "" ? [] : parsed(view);
}

/** The textarea is what is sent; whoever listens for changes of the form listens to it. */
function keep(textarea, text) {
  textarea.value = text;
  textarea.dispatchEvent(new Event("input", { bubbles: true }));
  textarea.dispatchEvent(new Event("change", { bubbles: true }));
}

function tidyButton(view) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "console-tidy";
  button.textContent = "Indent";
  button.title = "Write this JSON with even indentation";
  button.addEventListener("click", () => {
    try {
      replace(view, JSON.stringify(JSON.parse(view.state.doc.toString()), null, 2));
    } catch {
      view.focus(); // the mark beside the line says what is wrong
    }
  });
  return button;
}

/** With another handler type its template is put in, unless somebody has written something of their own. */
function offerTemplates(textarea, view) {
  const templates = JSON.parse(textarea.dataset.templates);
  const chooser = document.getElementById(textarea.dataset.templatesFor);
  const untouched = new Set(["", "{}", ...Object.values(templates).map(compact)]);
  chooser?.addEventListener("change", () => {
    const template = templates[chooser.value];
    if (template && untouched.has(compact(view.state.doc.toString()))) replace(view, JSON.stringify(template, null, 2));
  });
}

function compact(value) {
  try {
    return JSON.stringify(typeof value === "string" ? JSON.parse(value) : value);
  } catch {
    return String(value).trim();
  }
}

function replace(view, text) {
  view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } });
}

function labelText(label) {
  return label?.textContent.replace("*", "").replace(/:\s*$/, "").trim();
}
