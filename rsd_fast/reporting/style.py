"""How the page looks, and the few lines that move its slider. Without them the last grid is shown."""

CSS = """
:root { color-scheme: light dark; --text: #1b2430; --soft: #55606e; --page: #f6f7f9; --box: #fff; --line: #d5dae1;
  --worked: #1b7a3d; --improving: #1f5fae; --worse: #a05a00; --failed: #b3261e; --unknown: #5b6470; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --soft: #a3adba; --page: #12161c; --box: #1b2129;
  --line: #333c48; --worked: #5fc987; --improving: #7fb2f0; --worse: #e8a94f; --failed: #f28b82; --unknown: #a3adba; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
section, details { background: var(--box); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem;
  margin: 0 0 1rem; }
summary { cursor: pointer; font-weight: 600; }
.verdict { border: 2px solid var(--state); border-left-width: .6rem; }
.verdict h2 { color: var(--state); font-size: 1.35rem; line-height: 1.3; }
.worked { --state: var(--worked); } .improving { --state: var(--improving); } .worse { --state: var(--worse); }
.failed { --state: var(--failed); } .unknown { --state: var(--unknown); }
.verdict ul { list-style: none; margin: .8rem 0 0; padding: 0; }
.verdict li { padding-left: 1.5rem; } .verdict li::before { float: left; margin-left: -1.5rem; font-weight: 700; }
.trouble::before { content: "!"; color: var(--failed); } .fine::before { content: "✓"; color: var(--worked); }
.trouble { color: var(--failed); } code { white-space: nowrap; } .missing { color: var(--soft); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; min-width: 0; break-inside: avoid; }
.card { background: #fff; color: #1b2430; border: 1px solid var(--line); border-radius: .4rem; padding: .4rem; }
.card svg { display: block; width: 100%; height: auto; max-width: 36rem; margin: 0 auto; }
.card > img, .slider img { display: block; width: 100%; max-width: 36rem; height: auto; margin: 0 auto; }
img { image-rendering: pixelated; }
[hidden] { display: none !important; }
figcaption { color: var(--soft); font-size: .85rem; margin: .4rem .2rem 0; }
.slider label { display: flex; gap: .6rem; align-items: center; } .slider input { flex: 1; min-width: 0; height: 2rem; }
.slider p { text-align: center; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }
tbody th { white-space: nowrap; } td { overflow-wrap: anywhere; } .card th, .card td { border-color: #d5dae1; }
thead th, thead ~ tbody td { white-space: nowrap; }
.pictures { table-layout: fixed; width: 100%; max-width: 34rem; margin: 0 auto; }
.pictures th, .pictures td { padding: .15rem; text-align: center; vertical-align: middle; }
.pictures th { font-size: clamp(.6rem, 2.4vw, .8rem); } .pictures img { display: block; width: 100%; }
pre { overflow-x: auto; max-width: 100%; background: var(--page); border: 1px solid var(--line); border-radius: .4rem;
  padding: .6rem; font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  :root { color-scheme: light; --text: #000; --soft: #333; --page: #fff; --box: #fff; --line: #bbb; --worked: #14602f;
    --improving: #174a8a; --worse: #7a4500; --failed: #8c1d17; --unknown: #444; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } section { border: 0; padding: 0; }
  .verdict { padding: .6rem; } h2 { break-after: avoid; } .slider label { display: none; }
  .grid { grid-template-columns: 1fr 1fr; } .scroll { overflow: visible; } table { font-size: 7.5pt; }
  thead th, thead ~ tbody td { white-space: normal; } .card > img, .slider img { max-width: 11cm; }
}
"""

SLIDER = """
for (const box of document.querySelectorAll(".slider")) {
  const input = box.querySelector("input"), shown = box.querySelector("output");
  const images = [...box.querySelectorAll("img")];
  const show = () => {
    images.forEach((image, i) => { image.hidden = i !== +input.value; });
    shown.value = images[+input.value].dataset.kimg;
  };
  input.value = images.length - 1;
  input.addEventListener("input", show);
  addEventListener("beforeprint", () => { input.value = images.length - 1; show(); });
  box.querySelector("label").hidden = false;
}
"""
