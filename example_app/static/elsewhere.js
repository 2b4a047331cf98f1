// On each page of the checkout: shows a notice when another window has changed the flow. Nothing
// else on the page changes, so typed text is kept.
import { connect } from "../fsm/static/fsm.js";

const notice = document.getElementById("elsewhere");
const { page, rev } = notice.dataset; // as this page was shown
const pages = JSON.parse(notice.dataset.pages); // state: [title, address]
let flow = null;
let where = "in another window";

function showNotice(frame) {
  if (frame.rev === Number(rev)) return;
  // After an order, the empty cart starts a new one; until it is submitted, the flow is at the end.
  if (rev === "0" && frame.state === "checkout.done") return;
  const [title, address] = pages[frame.state];
  const text = document.createElement("p");
  const link = Object.assign(document.createElement("a"), { href: address });
  if (frame.state === page) {
    text.append(`This checkout was changed ${where}. `, link);
    link.textContent = "Load this page again";
  } else {
    text.append(`This checkout has moved on to ${title} ${where}. `, link);
    link.textContent = "Go there";
  }
  text.className = "notice";
  notice.replaceChildren(text);
}

// Connect only while the page is visible; on becoming visible again, it receives the current state.
// Use an event stream: nothing is sent, and a page with a websocket has no back/forward cache.
function connectIfVisible() {
  flow?.close();
  if (document.visibilityState === "hidden") return;
  flow = connect("checkout", { transport: "sse", reload: false });
  flow.on("state", showNotice);
}

// After the form is submitted, the next change is this window's own.
addEventListener("submit", () => flow?.close());
addEventListener("pagehide", () => flow?.close());
document.addEventListener("visibilitychange", connectIfVisible);
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  // Restored from the back/forward cache: reloading would lose typed text, so show a notice.
  where = "since you left this page";
  connectIfVisible();
});
connectIfVisible();
