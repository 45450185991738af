// Reads server-sent events from a fetch body: EventSource can only GET, and generating is a POST.
//
// A chunk from the network is not a unit of anything: it may hold half a character, half an event or ten. So bytes
// become text first, text is kept until a blank line ends an event, and only then is the event read.
//
// Source: HTML Living Standard, section 9.2, "Server-sent events".

const BLANK_LINE = /\r\n\r\n|\n\n|\r\r/;

/** The data of each event, as soon as the event is whole. An unfinished last event is dropped, as the standard says. */
export async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (buffer + value).split(BLANK_LINE);
      buffer = events.pop();
      for (const event of events) {
        const data = dataOf(event);
        if (data !== null) yield data;
      }
    }
  } finally {
    // A listener that stops early closes the connection too; a reader that has failed has nothing left to close.
    reader.cancel().catch(() => {});
  }
}

/** Its data: lines joined, or null if it has none: a comment, such as the heartbeat. */
function dataOf(event) {
  const lines = event
    .split(/\r\n|\n|\r/)
    .filter((line) => line === "data" || line.startsWith("data:"))
    .map((line) => line.slice("data:".length).replace(/^ /, ""));
  return lines.length === 0 ? null : lines.join("\n");
}
