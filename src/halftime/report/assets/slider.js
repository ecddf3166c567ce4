// Moves the cut between two pictures to where the range input of the same frame stands.
for (const frame of document.querySelectorAll(".slide-frame")) {
  const range = frame.querySelector("input");
  range.addEventListener("input", () => frame.style.setProperty("--cut", `${range.value}%`));
}
