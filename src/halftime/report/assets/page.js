// What a page does without its data: copy buttons, hints at wide tables, its height for a notebook.
(() => {
  const copied = (button, text) => { button.textContent = text; setTimeout(() => { button.textContent = "copy"; }, 1500); };
  const select = code => { const range = document.createRange(); range.selectNodeContents(code); getSelection().removeAllRanges(); getSelection().addRange(range); };

  for (const command of document.querySelectorAll(".command")) {
    const code = command.querySelector("code"), button = document.createElement("button");
    button.type = "button";
    button.textContent = "copy";
    button.addEventListener("click", () => {
      const write = navigator.clipboard ? navigator.clipboard.writeText(code.textContent) : Promise.reject();
      write.then(() => copied(button, "copied"), () => { select(code); copied(button, document.execCommand("copy") ? "copied" : "selected"); });
    });
    command.append(button);
  }

  const tables = document.querySelectorAll(".scroll");
  const hint = () => { for (const table of tables) table.parentElement.classList.toggle("is-wide", table.scrollWidth > table.clientWidth + 1); };
  const tell = () => { if (parent !== window) parent.postMessage({ halftimeHeight: document.documentElement.getBoundingClientRect().height }, "*"); };
  new ResizeObserver(() => { hint(); tell(); }).observe(document.documentElement);
  addEventListener("beforeprint", () => { for (const folded of document.querySelectorAll("details")) folded.open = true; });
  hint();
  tell();
})();
