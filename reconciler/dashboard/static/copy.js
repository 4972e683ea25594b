// Buttons that copy. Without JavaScript they are not shown: the text can be selected, and downloaded.
(() => {
  const show = () => document.querySelectorAll("button[data-copy], button[data-copy-from]").forEach(one => { one.hidden = false; });
  const text = async button => {
    if (button.dataset.copy) return document.getElementById(button.dataset.copy).textContent;
    const answer = await fetch(button.dataset.copyFrom);
    if (!answer.ok || answer.redirected) throw new Error(answer.status); // redirected: to the login page
    return answer.text();
  };
  const write = async words => {
    if (navigator.clipboard) return navigator.clipboard.writeText(words);
    const area = document.createElement("textarea"); // http on another host than this machine: there is no clipboard
    area.className = "sr";
    area.value = words;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("refused");
  };
  document.addEventListener("click", async event => {
    const button = event.target.closest("button[data-copy], button[data-copy-from]");
    if (!button) return;
    const status = button.parentElement.querySelector(".copied");
    try {
      await write(await text(button));
      status.textContent = "Copied";
    } catch {
      status.textContent = "The browser did not allow it: select the text and copy it";
    }
  });
  document.addEventListener("htmx:load", show);
  show();
})();
