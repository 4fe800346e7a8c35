// This user's threads in the side: the one used last first.

import { element } from "./dom.js";

const PAGE = 30;

/** A list that is read again with `refresh`. `onOpen({id, agentId})` is called when somebody chooses a thread. */
export class ThreadsPanel {
  constructor({ list, more, note, baseUrl, headers, onOpen }) {
    this.parts = { list, more, note };
    this.baseUrl = baseUrl;
    this.headers = headers;
    this.onOpen = onOpen;
    this.current = "";
    this.asked = 0;
    more.addEventListener("click", () => this.read(more.dataset.cursor));
  }

  /** Read the first page again. */
  refresh() {
    return this.read("");
  }

  /** Mark the thread that is open. */
  mark(threadId) {
    this.current = threadId;
    for (const item of this.parts.list.querySelectorAll("button")) {
      item.toggleAttribute("aria-current", item.dataset.thread === threadId);
    }
  }

  async read(cursor) {
    const asked = (this.asked += 1);
    const page = await this.page(cursor);
    if (asked !== this.asked) return; // a later question has been asked meanwhile
    const { list, more, note } = this.parts;
    if (page) {
      const items = page.threads.map((thread) => this.item(thread));
      if (cursor) list.append(...items);
      else list.replaceChildren(...items);
      more.dataset.cursor = page.nextCursor ?? "";
      more.hidden = !page.nextCursor;
      this.mark(this.current);
    }
    note.hidden = Boolean(page?.threads.length || (page && cursor));
    note.textContent = page ? "Your threads are listed here." : "The threads cannot be listed at the moment.";
  }

  /** `{threads, nextCursor}`; null when the service cannot say. */
  async page(cursor) {
    const query = new URLSearchParams({ limit: String(PAGE), ...(cursor ? { cursor } : {}) });
    try {
      const response = await fetch(`${this.baseUrl}/threads?${query}`, { headers: this.headers(), cache: "no-store" });
      return response.ok ? await response.json() : null;
    } catch {
      return null;
    }
  }

  item(thread) {
    const moment = new Date(thread.updatedAt);
    return element(
      "li",
      {},
      element(
        "button",
        { type: "button", class: "thread", "data-thread": thread.id, on: { click: () => this.onOpen(thread) } },
        element("span", { class: "thread-name", text: thread.name || "No name" }),
        element(
          "span",
          { class: "thread-facts" },
          element("time", { datetime: thread.updatedAt, text: shortMoment(moment) }),
          thread.activeRunId ? element("span", { class: "thread-running", text: "running" }) : null,
        ),
      ),
    );
  }
}

/** The time of today, otherwise the day. */
function shortMoment(moment) {
  const isToday = moment.toDateString() === new Date().toDateString();
  return isToday
    ? moment.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false })
    : moment.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}
