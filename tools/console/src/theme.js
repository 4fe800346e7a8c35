// How the editor looks: the console's own colours, light and dark, from the theme's variables.

import { HighlightStyle } from "@codemirror/language";
import { tags } from "@lezer/highlight";
import { EditorView } from "@codemirror/view";

export const theme = EditorView.theme({
  "&": {
    maxWidth: "56rem",
    border: "1px solid var(--console-editor-line)",
    borderRadius: "6px",
    fontSize: "12.5px",
    color: "var(--console-editor-text)",
    backgroundColor: "var(--console-editor-paper)",
  },
  "&.cm-focused": { outline: "2px solid var(--color-primary-600)", outlineOffset: "-1px" },
  ".cm-scroller": {
    minHeight: "5.5em",
    maxHeight: "34em",
    overflow: "auto",
    fontFamily: 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace',
    lineHeight: "1.55",
  },
  ".cm-content": { caretColor: "var(--console-editor-text)" },
  ".cm-cursor": { borderLeftColor: "var(--console-editor-text)" },
  ".cm-gutters": { border: "none", color: "var(--color-base-500)", backgroundColor: "var(--console-editor-margin)" },
  ".cm-activeLine": { backgroundColor: "rgb(99 102 241 / 7%)" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "rgb(99 102 241 / 25%)" },
  // marks of text instead of the package's own, which are images in the style sheet: the content policy allows none
  ".cm-lint-marker-error": { content: "normal", color: "var(--console-editor-invalid)", fontWeight: "700", textAlign: "center" },
  ".cm-lint-marker-error::before": { content: '"!"' },
  ".cm-lintRange-error": { backgroundImage: "none", textDecoration: "underline wavy var(--console-editor-invalid)" },
  ".cm-tooltip": { border: "1px solid var(--color-base-200)", color: "#1f2430", backgroundColor: "#fff" },
});

export const colours = HighlightStyle.define([
  { tag: tags.propertyName, color: "var(--console-editor-name)" },
  { tag: tags.string, color: "var(--console-editor-string)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--console-editor-value)" },
  { tag: tags.invalid, color: "var(--console-editor-invalid)" },
]);
