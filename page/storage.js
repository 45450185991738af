// What the page keeps in the browser: in `localStorage` for good, in `sessionStorage` for this tab.
//
// A browser may refuse to keep anything, or have no room left, and another program at the same address may have written
// under the same name. None of that is a reason to fail.

/** The text that is kept under a name, or null. */
export function kept(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

/** The JSON that is kept under a name, if it is as `isOurs` says; otherwise `fallback`. */
export function keptJson(storage, name, isOurs, fallback) {
  try {
    const value = JSON.parse(kept(storage, name));
    return isOurs(value) ? value : fallback;
  } catch {
    return fallback;
  }
}

/** Keep a text under a name; return whether it is kept. */
export function keep(storage, name, text) {
  try {
    window[storage].setItem(name, text);
    return true;
  } catch {
    return false;
  }
}
