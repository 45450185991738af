// What the programs of the JavaScript clients share; see checks.py.

export const [BASE, MODEL] = process.argv.slice(2);
export const QUESTION = "What is 2 + 2?";

export async function check(what, attempt) {
  let passed = true;
  let note;
  try {
    note = String(await attempt());
  } catch (error) {
    passed = false;
    note = `${error.name}: ${error.message}`;
    console.error(error);
  }
  console.log(JSON.stringify({ what, passed, note: note.slice(0, 200) }));
}

export function expect(condition, what) {
  if (!condition) throw new Error(`expected ${what}`);
}
