// An htmx extension that works with `ws`: it renders frames as HTML and sends events for buttons.

const escaped = (text) => new Option(text).innerHTML;

htmx.defineExtension("fsm", {
  // The returned element replaces the element with the same id.
  transformResponse(text, xhr) {
    if (xhr) return text; // the response to a request, not a frame
    const { state, status, data } = JSON.parse(text);
    if (state) return `<p class="now" id="ws-state">The light is <strong>${escaped(state)}</strong>.</p>`;
    const said = status < 400 ? `The light says: ${data}.` : data.message;
    return `<p class="fine" id="ws-data">${escaped(said)}</p>`;
  },

  // By default `ws` sends the form's values and the request's headers.
  onEvent(name, { detail }) {
    if (name !== "htmx:wsConfigSend") return;
    detail.messageBody = JSON.stringify({ event: detail.parameters.event, data: null });
  },
});
