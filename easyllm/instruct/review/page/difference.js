// Where two texts differ, word by word; in scripts without spaces, character by character.

const LONGEST = 1200; // tokens of a side; beyond, comparing would take longer than reading

/** The parts of `mine` and of `other` as [{text, kind: "same" or "differs"}]; null where they are too long to compare. */
export function difference(mine, other) {
  const left = tokens(mine);
  const right = tokens(other);
  if (left.length > LONGEST || right.length > LONGEST) return null;
  const [keptLeft, keptRight] = common(left, right);
  const side = (found, kept) => joined(found.map((text, at) => ({ text, kind: kept.has(at) ? "same" : "differs" })));
  return [side(left, keptLeft), side(right, keptRight)];
}

/** How `old` became `fresh`, as one text: [{text, kind: "same", "gone" or "new"}]; null where they are too long. */
export function changes(old, fresh) {
  const left = tokens(old);
  const right = tokens(fresh);
  if (left.length > LONGEST || right.length > LONGEST) return null;
  const [keptLeft, keptRight] = common(left, right);
  const found = [];
  let i = 0;
  let j = 0;
  while (i < left.length || j < right.length) {
    if (i < left.length && !keptLeft.has(i)) found.push({ text: left[i++], kind: "gone" });
    else if (j < right.length && !keptRight.has(j)) found.push({ text: right[j++], kind: "new" });
    else {
      found.push({ text: right[j], kind: "same" });
      i += 1;
      j += 1;
    }
  }
  return joined(found);
}

const ALONE = String.raw`\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}`;
const TOKEN = new RegExp(String.raw`[${ALONE}]|[[\p{L}\p{M}\p{N}_]--[${ALONE}]]+|\s+|.`, "gsv");

const tokens = (text) => text.match(TOKEN) ?? [];

/** Which tokens of each side stand in their longest common subsequence. */
function common(left, right) {
  const wide = right.length + 1;
  const longest = new Uint16Array((left.length + 1) * wide);
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      const at = i * wide + j;
      longest[at] = left[i] === right[j]
        ? longest[at + wide + 1] + 1
        : Math.max(longest[at + wide], longest[at + 1]);
    }
  }
  const keptLeft = new Set();
  const keptRight = new Set();
  let i = 0;
  let j = 0;
  while (i < left.length && j < right.length) {
    if (left[i] === right[j]) {
      keptLeft.add(i++);
      keptRight.add(j++);
    } else if (longest[(i + 1) * wide + j] >= longest[i * wide + j + 1]) i++;
    else j++;
  }
  return [keptLeft, keptRight];
}

/** Neighbours of one kind as one part. */
function joined(found) {
  const made = [];
  for (const { text, kind } of found) {
    if (made.at(-1)?.kind === kind) made.at(-1).text += text;
    else made.push({ text, kind });
  }
  return made;
}
