
// Buttons on the cards of the demo's nodes. The page tells by an event when it has shown news.
const nodes = await (await fetch("nodes")).json();
const ACTS = { kill: "Kill", freeze: "Freeze", heal: "Heal", drain: "Drain" };
const nodeOf = ({ url, member }) => nodes.find((node) => node.url === url || node.name === member || member.startsWith(`${node.name}-`));
document.getElementById("log-out").hidden = true;
document.addEventListener("survey", () => {
  for (const card of document.querySelectorAll(".member")) {
    const node = nodeOf(card.dataset), actions = card.querySelector(".actions");
    if (!node || actions.children.length) continue;
    for (const [act, label] of Object.entries(ACTS)) {
      const button = document.createElement("button");
      button.className = "quiet";
      button.textContent = label;
      button.setAttribute("aria-label", `${label} ${node.name}`);
      button.onclick = async () => {
        button.disabled = true;
        await fetch(`nodes/${node.name}/${act}`, { method: "POST" });
        button.disabled = false;
      };
      actions.append(button);
    }
  }
});
