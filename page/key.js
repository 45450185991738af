// The key that a server may ask for. It is kept for this tab only, and sent as a bearer token.

import { keep, kept } from "./storage.js";

const NAME = "api-key";
let key = kept("sessionStorage", NAME) ?? "";

export function keyHeaders() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Let an input hold the key. */
export function bindKey(input) {
  input.value = key;
  input.addEventListener("input", () => {
    key = input.value.trim();
    keep("sessionStorage", NAME, key);
  });
}
