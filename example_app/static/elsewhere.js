// On each page of the checkout: says so when another window has moved it on. Nothing else changes on
// the page, so what was typed stays.
import { connect } from "../fsm/static/fsm.js";

const notice = document.getElementById("elsewhere");
const { page, rev } = notice.dataset; // as this page was shown
const pages = JSON.parse(notice.dataset.pages); // state: [title, address]
let flow = null;
let where = "in another window";

function tell(frame) {
  if (frame.rev === Number(rev)) return;
  // An empty cart after an order begins another one; until it is sent, the flow is at the end.
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

// It listens while the page is seen: as soon as it is seen again, it is told where the checkout is.
// By a stream, since it sends nothing, and since a page that had a websocket is not kept for Back.
function listen() {
  flow?.close();
  if (document.visibilityState === "hidden") return;
  flow = connect("checkout", { transport: "sse", reload: false });
  flow.on("state", tell);
}

// When the form is sent, what comes next is this window's own move.
addEventListener("submit", () => flow?.close());
addEventListener("pagehide", () => flow?.close());
document.addEventListener("visibilitychange", listen);
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  // Back onto a page that was kept: loaded anew it would lose what was typed, so it is told.
  where = "since you left this page";
  listen();
});
listen();
