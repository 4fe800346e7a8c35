// Markdown from a model as a document fragment that can do no harm.
//
// The text is not trusted: a model repeats what tools and pages told it. Only the elements below pass; no images (an image's
// address is a way to send data out), no styles (the page's policy forbids them), links open elsewhere without a referrer.

import DOMPurify from "dompurify";
import { Marked } from "marked";

const ALLOWED_ELEMENTS = [
  "p", "br", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "hr", "a",
  "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
];
const ALLOWED_ATTRIBUTES = ["href", "title", "start", "align"];

const marked = new Marked({ gfm: true, breaks: true });

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/** The rendered text. */
export function renderMarkdown(text) {
  return DOMPurify.sanitize(marked.parse(text), {
    ALLOWED_TAGS: ALLOWED_ELEMENTS,
    ALLOWED_ATTR: ALLOWED_ATTRIBUTES,
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
}
