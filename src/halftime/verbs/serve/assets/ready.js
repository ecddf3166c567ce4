// What the server is and offers: polled until it is ready, then now and then.

const WORDS = {
  starting: "starting", warming: "warming up", ready: "ready", draining: "shutting down", failed: "not able to start", gone: "no connection",
};

/** Calls `offered` with what can be chosen, each time the server becomes ready. */
export async function watch(offered) {
  let before = "";
  for (;;) {
    const told = await asked();
    tell(told);
    if (told.state === "ready" && before !== "ready") offered(told.offers);
    before = told.state;
    await new Promise((done) => setTimeout(done, told.state === "ready" ? 10000 : 500));
  }
}

async function asked() {
  try {
    return await (await fetch("/readyz")).json();
  } catch {
    return { state: "gone" };
  }
}

function tell(told) {
  const state = document.getElementById("state");
  state.dataset.state = told.state;
  const words = WORDS[told.state] ?? told.state;
  const model = told.offer?.model;
  document.getElementById("state-text").textContent = model && told.state === "ready" ? `${model}, ready` : words;
  document.getElementById("certificate").replaceChildren(...(told.facts ? facts(told) : [line(told.why || words)]));
}

function facts(told) {
  const list = document.createElement("dl");
  for (const [name, value] of told.facts) {
    list.append(Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: value }));
  }
  return [line(told.why || "Everything on the list below ran before the first request."), list];
}

const line = (content) => Object.assign(document.createElement("p"), { textContent: content });
