/* Search runs in a worker, and browsers start none for a page that was opened from the disk. There, a hidden frame of
   the same page runs the worker's script. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.scope = frame.contentWindow
      this.scope.postMessage = (data) => this.receive(data)
      this.loaded = new Promise((done) => {
        const element = frame.contentDocument.createElement("script")
        element.src = new URL(script, document.baseURI)
        element.onload = done
        frame.contentDocument.body.append(element)
      })
    }

    receive(data) {
      this.dispatchEvent(new MessageEvent("message", { data }))
    }

    postMessage(data) {
      this.loaded.then(() => this.scope.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
