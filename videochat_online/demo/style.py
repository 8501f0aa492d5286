"""How the page looks: colours follow gradio's theme, so light and dark need no second set.

Gradio cuts selectors at every comma, so none stands inside :is() or :has(). A file that is refused in the browser (too
large) is told by gradio beside the page; its "Error" in the place of the drop zone would stay, and is hidden.
"""

from __future__ import annotations

CSS = """
.gradio-container { width: 100% !important; max-width: 1280px !important; margin: 0 auto !important; }
.gradio-container .main { padding-top: .8rem !important; gap: .8rem; }
footer { display: none !important; }
.gradio-container .html-container { padding: 0 !important; }
.gradio-container h2 { margin: .2rem 0 0; font-size: 1.1rem; font-weight: 650; }
.gradio-container h2 b { display: inline-grid; place-items: center; width: 1.5em; height: 1.5em; margin-right: .3em;
  border-radius: 50%; background: #4f46e5; color: #fff !important; font-size: .8em; }
.vco-hint { margin: .2rem 0 0 !important; color: var(--body-text-color-subdued) !important; }
.vco-title { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem .9rem; }
.vco-title h1 { font-size: 1.4rem; font-weight: 700; letter-spacing: -.02em; margin: 0; }
.vco-title p { margin: 0; color: var(--body-text-color-subdued); }
.vco-note { border-left: 3px solid #d97706; padding: .3rem .7rem; margin: .4rem 0 0; border-radius: 4px;
  background: color-mix(in srgb, #d97706 10%, transparent); font-size: .88rem; }
#vco-sources .selected { color: #4f46e5; } .dark #vco-sources .selected { color: #a5b4fc; }
#vco-sources button.primary, #vco-ask { align-self: end; height: 2.7rem; min-height: 0; }
#vco-notice:not(:has(p)), #vco-links:not(:has(a)) { display: none; }
#vco-upload .wrap:has(.error) { display: none; }
.vco-screen { position: relative; background: #0b0d12; border-radius: 12px; overflow: hidden; aspect-ratio: 16 / 9; }
.vco-screen img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; margin: 0 !important; }
.vco-empty { display: grid; place-items: center; }
.vco-empty p { color: #aab3c2 !important; }
.vco-status { display: flex; align-items: center; gap: .6rem; min-height: 1.9rem; }
.vco-chip { font-size: .75rem; font-weight: 600; padding: .12rem .6rem; border-radius: 99px;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
.vco-chip.vco-playing { background: #15803d; border-color: #15803d; color: #fff; }
.vco-chip.vco-reconnecting, .vco-chip.vco-waiting { background: #b45309; border-color: #b45309; color: #fff; }
.vco-time { font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; }
.vco-name { color: var(--body-text-color-subdued); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.vco-progress { height: 4px; border-radius: 2px; background: var(--border-color-primary); overflow: hidden; }
.vco-progress i { display: block; height: 100%; background: #6366f1; transition: width .6s linear; }
.vco-problem { margin: 0 !important; color: #b91c1c !important; font-weight: 600; }
.dark .vco-problem { color: #f87171 !important; }
.vco-truth { margin: .35rem 0 0 !important; font-size: .85rem; color: var(--body-text-color-subdued) !important;
  min-height: 2.6em; }
.vco-transport { gap: .5rem !important; }
.vco-transport button { min-height: 2.3rem; font-size: .85rem !important; }
.vco-transport button::before { margin-right: .5em; font-size: .8em; }
#vco-play::before { content: "\\25B6\\FE0E" / ""; } #vco-stop::before { content: "\\25A0" / ""; }
#vco-pause::before { content: "\\2759\\2759" / ""; letter-spacing: -.15em; }
#vco-chat button[aria-label="Clear"] { display: none; }
#vco-chat .user.message { cursor: pointer; }
#vco-chat .user.message code { font-weight: 600; }
#vco-examples { gap: .4rem; }
#vco-examples button { font-weight: 400; font-size: .82rem; flex: 0 1 auto; min-width: 0 !important; }
.vco-links { display: flex; flex-wrap: wrap; gap: .5rem; }
.vco-link { font-size: .82rem; padding: .3rem .7rem; border: 1px solid var(--border-color-primary); border-radius: 8px;
  color: var(--body-text-color) !important; text-decoration: none !important; }
.vco-link:hover { border-color: #6366f1; }
.vco-counters { display: grid; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)); gap: .5rem; margin: 0; }
.vco-counters > div { padding: .4rem .7rem; border: 1px solid var(--border-color-primary); border-radius: 10px;
  background: var(--background-fill-secondary); }
.vco-counters dt { font-size: .74rem; color: var(--body-text-color-subdued); }
.vco-counters dd { margin: 0; font-weight: 650; font-variant-numeric: tabular-nums; white-space: nowrap; }
#vco-moments .wrap { flex-wrap: nowrap; overflow-x: auto; padding: 3px; } #vco-moments label { flex: none; }
.vco-memory { display: flex; flex-direction: column; gap: .7rem; }
.vco-memory .vco-l0 { --c: #6366f1; } .vco-memory .vco-l1 { --c: #0d9488; }
.vco-memory .vco-l2 { --c: #d97706; } .vco-memory .vco-l3 { --c: #be185d; }
.vco-then { margin: 0 !important; font-weight: 600; }
.vco-timeline { padding: .3rem .6rem 0; }
.vco-line { position: relative; height: 26px; border-bottom: 2px solid var(--border-color-primary); }
.vco-line i { position: absolute; transform: translateX(-50%); font-style: normal; }
.vco-dot { bottom: -6px; width: 11px; height: 11px; border-radius: 50%; background: var(--c);
  border: 2px solid var(--body-background-fill); }
.vco-dot.vco-l0 { width: 17px; height: 17px; bottom: -9px; }
.vco-dot.vco-l1 { width: 14px; height: 14px; bottom: -8px; }
.vco-q { top: -4px; font-size: .8rem; font-weight: 700; }
.vco-memory i.vco-gone, .vco-memory i.vco-demoted { bottom: 7px; width: 3px; height: 13px; background: #dc2626; }
.vco-memory i.vco-demoted { background: #0d9488; }
.vco-ends { display: flex; justify-content: space-between; gap: .8rem; font-size: .75rem; padding-top: .45rem;
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.vco-legend { display: flex; flex-wrap: wrap; justify-content: center; gap: 0 .9rem; }
.vco-legend span { display: inline-flex; align-items: center; gap: .3rem; }
.vco-legend i { display: inline-block; }
.vco-level { border: 1px solid var(--border-color-primary); border-left: 4px solid var(--c); border-radius: 10px;
  padding: .5rem .7rem; background: var(--background-fill-secondary); }
.vco-head { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .82rem; margin-bottom: .45rem;
  color: var(--body-text-color-subdued); }
.vco-head b { color: color-mix(in srgb, var(--c) 80%, #000); } 
.dark .vco-head b { color: color-mix(in srgb, var(--c) 60%, #fff); }
.vco-frames { display: flex; flex-wrap: wrap; gap: .5rem; --side: 64px; }
.vco-l0 .vco-frames { --side: 112px; } .vco-l1 .vco-frames { --side: 86px; }
.vco-frame { margin: 0 !important; width: var(--side); }
.vco-pic { position: relative; width: var(--side); height: var(--side); border-radius: 7px; overflow: hidden;
  background: #0b0d12; outline: 1px solid var(--border-color-primary); }
.vco-pic img { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0 !important; }
.vco-pic .vco-coarse { image-rendering: pixelated; }
.vco-pic:hover .vco-coarse, .gradio-container:has(#vco-sharp input:checked) .vco-coarse { visibility: hidden; }
.vco-pic:has(.vco-coarse)::after { content: ""; position: absolute; inset: 0; pointer-events: none; opacity: .5;
  background-size: calc(100% / var(--g)) calc(100% / var(--g)); background-position: -.5px -.5px;
  background-image: linear-gradient(to right, #fff 1px, transparent 1px),
  linear-gradient(to bottom, #fff 1px, transparent 1px); }
.vco-down .vco-pic { outline: 3px solid var(--c); }
.vco-frame figcaption { font-size: .72rem; text-align: center; font-variant-numeric: tabular-nums;
  color: var(--body-text-color-subdued); }
.vco-slot { width: var(--side); height: var(--side); border: 1px dashed var(--border-color-primary);
  border-radius: 7px; }
.vco-left > b { font-size: .82rem; color: var(--body-text-color-subdued); }
.vco-left ul { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: .4rem;
  list-style: none; margin: .35rem 0 0 !important; padding: 0 !important; }
.vco-left li { display: flex; align-items: center; gap: .6rem; font-size: .8rem; --side: 40px; margin: 0 !important;
  padding: .3rem .45rem; border: 1px solid var(--border-color-primary); border-radius: 8px; }
.vco-left figcaption { display: none; }
.vco-left .vco-gone .vco-pic { filter: grayscale(1); opacity: .6; outline: 2px solid #dc2626; }
.vco-left .vco-gone b { color: #b91c1c; } .dark .vco-left .vco-gone b { color: #f87171; }
.vco-left .vco-demoted b { color: #0f766e; } .dark .vco-left .vco-demoted b { color: #2dd4bf; }
a:focus-visible, button:focus-visible, input:focus-visible, textarea:focus-visible {
  outline: 3px solid #6366f1 !important; outline-offset: 2px; }
@media (max-width: 700px) {
  .gradio-container .main, .gradio-container .fillable { padding: .5rem .4rem !important; }
  .gradio-container .row, .gradio-container .column, .gradio-container .block { min-width: 0 !important; }
  .gradio-container .row, .gradio-container .column, .gradio-container .block { max-width: 100%; }
  #vco-sources .tab-container button { padding: 0 .4rem !important; font-size: .84rem; }
  #vco-sources button.primary { flex: 1 0 auto; font-size: .88rem; padding: 0 .6rem; white-space: nowrap; }
  #vco-sources .row, #vco-asking, .vco-transport { flex-wrap: nowrap; }
  #vco-chat { height: 340px !important; } #vco-look .form > * { flex: 1 1 100% !important; }
  .vco-l0 .vco-frames { --side: 84px; } .vco-l1 .vco-frames { --side: 66px; } .vco-frames { --side: 50px; }
  .vco-counters { grid-template-columns: repeat(2, 1fr); gap: .35rem; }
  .vco-counters > div { display: flex; align-items: baseline; justify-content: space-between; padding: .25rem .6rem; }
}
@media (prefers-reduced-motion: reduce) { .vco-progress i { transition: none; } }
"""
