// The page names its own request, so that it can ask for the transcript while the answer is still on its way.

export function newRequestId() {
  // randomUUID is there only on https and on localhost; getRandomValues is there everywhere.
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
