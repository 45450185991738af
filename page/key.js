// The key that a server may ask for. It is kept for this tab only, and sent as a bearer token.

const NAME = "api-key";

export function keyHeaders() {
  const key = sessionStorage.getItem(NAME);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Let an input hold the key. */
export function bindKey(input) {
  input.value = sessionStorage.getItem(NAME) ?? "";
  input.addEventListener("input", () => sessionStorage.setItem(NAME, input.value.trim()));
}
