// A button beside every command that can be pasted as it is.
for (const code of document.querySelectorAll("code[data-copy]")) {
  const button = make("button", "Copy", "copy");
  button.type = "button";
  button.setAttribute("aria-label", "Copy: " + code.textContent);
  const say = (text) => {
    button.textContent = text;
    button.setAttribute("aria-label", text + ": " + code.textContent);
    setTimeout(() => {
      button.textContent = "Copy";
      button.setAttribute("aria-label", "Copy: " + code.textContent);
    }, 2000);
  };
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      say("Copied");
    } catch { // no clipboard for this page, such as one opened over http
      getSelection().selectAllChildren(code);
      say(document.execCommand("copy") ? "Copied" : "Press Ctrl+C");
    }
  });
  code.after(button);
}
