// Times /health on a thread of its own: a page that is busy drawing tokens must not look like a server that is frozen.

onmessage = async ({ data: address }) => {
  const began = performance.now();
  const health = await askHealth(address);
  postMessage({ ms: performance.now() - began, health });
};

async function askHealth(address) {
  try {
    // A 503 is an answer too: it carries the reason why no request is taken.
    return await (await fetch(address, { cache: "no-store" })).json();
  } catch {
    return null;
  }
}
