// Search in a site that is opened from the disk: browsers start no worker for file:// pages, so
// the script of the worker runs in a hidden frame, which has the same interface.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      document.documentElement.append(frame);
      const inside = frame.contentWindow;
      // What the worker posts, it posts to whoever started it.
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.loaded = new Promise((resolve, reject) => {
        const element = frame.contentDocument.createElement("script");
        Object.assign(element, { src: script, onload: resolve, onerror: reject });
        frame.contentDocument.head.append(element);
      });
      this.inside = inside;
    }
    postMessage(data) {
      const message = new this.inside.MessageEvent("message", { data });
      this.loaded.then(() => this.inside.dispatchEvent(message));
    }
  };
}
