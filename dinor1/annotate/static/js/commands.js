// Every command with its keys: the one source of the keyboard, the buttons' hints and the help.

const ZOOM = 1.25;

/**
 * Keys are written as in the help; several are divided by blanks, and an underscore is a blank. `run(app, event)` does it.
 * A command without `run` is only described: it belongs to the mouse, or to a key with another handler.
 */
export function makeCommands(app) {
  const { canvas, model } = app;
  const threshold = (step) => model.setThreshold(Math.round((model.threshold + step) * 100) / 100);
  const far = (event) => (event.shiftKey ? 10 : 1);
  const arrow = (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    return steps[event.key].map((step) => step * far(event));
  };
  return [
    { id: 'find', group: 'Find', keys: 'F', title: 'Find like this on the image; the selected box becomes an exemplar', run: () => app.find() },
    { id: 'find-all', group: 'Find', keys: 'Shift+F', title: 'Find on all images that are not checked', run: () => app.findOnAll() },
    { id: 'cancel', group: 'Find', keys: 'Shift+Escape', title: 'Cancel the search', run: () => app.cancel() },
    { id: 'exemplar', group: 'Find', keys: 'E', title: 'Make the selected box an exemplar', run: () => app.addExemplar() },
    { id: 'negative', group: 'Find', keys: 'Shift+E', title: 'Make it a negative exemplar: must not be taken for the class', run: () => app.addExemplar(true) },
    { id: 'lower', group: 'Find', keys: '[', title: 'Lower the threshold', run: () => threshold(-0.02) },
    { id: 'raise', group: 'Find', keys: ']', title: 'Raise the threshold', run: () => threshold(0.02) },

    { id: 'accept', group: 'Decide', keys: 'A Enter', title: 'Accept the selected proposal', run: () => app.accept() },
    { id: 'reject', group: 'Decide', keys: 'X Delete Backspace', title: 'Reject the selected proposal, or delete the box', run: () => app.reject() },
    { id: 'accept-all', group: 'Decide', keys: 'Shift+A', title: 'Accept all visible proposals', run: () => app.decideAll('accepted') },
    { id: 'reject-all', group: 'Decide', keys: 'Shift+X', title: 'Reject all visible proposals', run: () => app.decideAll('rejected') },
    { id: 'check', group: 'Decide', keys: 'C', title: 'Image is finished, go on; again: not finished', run: () => app.check() },
    { id: 'undo', group: 'Decide', keys: 'Ctrl+Z', title: 'Undo', run: () => app.undo() },
    { id: 'redo', group: 'Decide', keys: 'Ctrl+Shift+Z Ctrl+Y', title: 'Redo', run: () => app.redo() },

    { id: 'class', group: 'Boxes', keys: '1…9', title: 'Choose the class of the selected and of new boxes', pattern: /^[1-9]$/, run: (event) => app.chooseClassAt(Number(event.key) - 1) },
    { id: 'draw', group: 'Boxes', keys: 'B', title: 'New box in the middle; then move and stretch it', run: () => app.drawInTheMiddle() },
    { id: 'next-box', group: 'Boxes', keys: '.', title: 'Select the next box', run: () => app.cycleBox(1) },
    { id: 'previous-box', group: 'Boxes', keys: ',', title: 'Select the previous box', run: () => app.cycleBox(-1) },
    { id: 'nudge', group: 'Boxes', keys: '← ↑ ↓ →', title: 'Move the box by a pixel, with Shift by ten; without a box, the image', pattern: /^(Shift\+)?Arrow/, run: (event) => app.nudge(...arrow(event)) },
    { id: 'stretch', group: 'Boxes', keys: 'Alt+←↑↓→', title: 'Move the right and lower edge', pattern: /^Alt\+(Shift\+)?Arrow/, run: (event) => app.stretch(...arrow(event)) },
    { id: 'deselect', group: 'Boxes', keys: 'Escape', title: 'Stop drawing; deselect', run: () => canvas.cancel() || app.selectBox(null) },
    { id: 'labels', group: 'Boxes', keys: 'L', title: 'Show or hide labels', run: () => { canvas.showLabels = !canvas.showLabels; canvas.redraw(); } },

    { id: 'next', group: 'Images', keys: 'J PageDown', title: 'Next image', run: () => app.next() },
    { id: 'previous', group: 'Images', keys: 'K PageUp', title: 'Previous image', run: () => app.previous() },
    { id: 'next-unchecked', group: 'Images', keys: 'N', title: 'Next image that is not checked', run: () => app.nextUnchecked() },
    { id: 'search', group: 'Images', keys: '/', title: 'Filter images by name', run: () => document.getElementById('search').focus() },
    { id: 'new-class', group: 'Images', keys: 'Shift+C', title: 'New class', run: () => document.querySelector('#classes input[type=text]').focus() },
    { id: 'import', group: 'Images', keys: 'I', title: 'Import annotations', run: () => app.importFile() },
    { id: 'export', group: 'Images', keys: 'Shift+S', title: 'Export annotations', run: () => app.exportAll() },
    { id: 'help', group: 'Images', keys: '?', title: 'This help', run: (event, commands) => app.help(commands) },

    { id: 'zoom-in', group: 'View', keys: '+ =', title: 'Zoom in', run: () => canvas.zoom(ZOOM) },
    { id: 'zoom-out', group: 'View', keys: '-', title: 'Zoom out', run: () => canvas.zoom(1 / ZOOM) },
    { id: 'fit', group: 'View', keys: '0', title: 'Show the whole image', run: () => canvas.fit() },
    { group: 'View', keys: 'Wheel', title: 'Zoom at the pointer; with Shift, move sideways' },
    { group: 'View', keys: 'Space+drag', title: 'Move the image; the middle button does the same' },
    { group: 'View', keys: 'Drag', title: 'Draw a box; on the selected one, move or resize it' },
    { group: 'View', keys: 'Alt+drag', title: 'Draw within the selected box' },
  ];
}
