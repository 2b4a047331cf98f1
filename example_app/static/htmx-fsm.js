// An extension for htmx, beside its own `ws`: frames become HTML, and buttons send events.

const escaped = (text) => new Option(text).innerHTML;

htmx.defineExtension("fsm", {
  // What this returns takes the place of the element on the page that has its id.
  transformResponse(text, xhr) {
    if (xhr) return text; // no frame, but the answer to a request
    const { state, status, data } = JSON.parse(text);
    if (state) return `<p class="now" id="ws-state">The light is <strong>${escaped(state)}</strong>.</p>`;
    const said = status < 400 ? `The light says: ${data}.` : data.message;
    return `<p class="fine" id="ws-data">${escaped(said)}</p>`;
  },

  // By itself `ws` sends the values of a form, and the headers of a request.
  onEvent(name, { detail }) {
    if (name !== "htmx:wsConfigSend") return;
    detail.messageBody = JSON.stringify({ event: detail.parameters.event, data: null });
  },
});
