/**
 * The words that the small model knows best, and how a tap on one of them changes a prompt.
 */

/** Example prompts, most telling first. */
export const EXAMPLES = [
  "snowy mountains at night, snow falling, camera pans left",
  "a red hot air balloon over a lake at dawn, clear sky",
  "the sea at dusk, a sailing boat, birds in the sky",
  "a city at night in the rain, lit windows",
  "desert at day, clear sky, camera pans right",
  "a lighthouse by the sea at night, fog",
  "green hills at dawn, a train passing, light fog",
  "forest at day in the rain, still camera",
];

/**
 * Groups of words of which a prompt has one at a time. `phrase` goes into the prompt, `match` finds every
 * wording of the group in it.
 */
export const WORD_GROUPS = [
  {
    name: "Time",
    match: /\b(?:at|in|during) (?:the )?(?:dawn|sunrise|day|daytime|noon|dusk|sunset|evening|night)\b/gi,
    words: [
      { label: "Dawn", phrase: "at dawn" },
      { label: "Day", phrase: "at day" },
      { label: "Dusk", phrase: "at dusk" },
      { label: "Night", phrase: "at night" },
    ],
  },
  {
    name: "Weather",
    match: /\b(?:(?:under an? )?clear sky|(?:in the |light |heavy )?(?:rain|snow|fog)(?: falling)?)\b/gi,
    words: [
      { label: "Clear", phrase: "clear sky" },
      { label: "Rain", phrase: "rain falling" },
      { label: "Snow", phrase: "snow falling" },
      { label: "Fog", phrase: "fog" },
    ],
  },
  {
    name: "Camera",
    match: /\b(?:still camera|(?:the )?camera (?:is )?(?:still|pans? left|pans? right|panning left|panning right|zooms? in))\b/gi,
    words: [
      { label: "Still", phrase: "still camera" },
      { label: "Pan left", phrase: "camera pans left" },
      { label: "Pan right", phrase: "camera pans right" },
      { label: "Zoom in", phrase: "camera zooms in" },
    ],
  },
  {
    name: "Place",
    match: /\b(?:the sea|(?:snowy |green )?(?:mountains|hills)|(?:a |the )?(?:desert|forest|city|lake)|sea)\b/gi,
    words: [
      { label: "Sea", phrase: "the sea" },
      { label: "Mountains", phrase: "mountains" },
      { label: "Snowy mountains", phrase: "snowy mountains" },
      { label: "Desert", phrase: "desert" },
      { label: "Hills", phrase: "green hills" },
      { label: "Forest", phrase: "a forest" },
      { label: "City", phrase: "a city" },
      { label: "Lake", phrase: "a lake" },
    ],
  },
];

/**
 * Put one phrase of a group into a prompt: over the wording of that group if there is one, else at the end.
 * @param {string} prompt
 * @param {{match: RegExp}} group
 * @param {string} phrase
 * @returns {string}
 */
export function steerPrompt(prompt, group, phrase) {
  let placed = false;
  const replaced = prompt.replace(group.match, () => {
    const text = placed ? "" : phrase;
    placed = true;
    return text;
  });
  const whole = placed ? replaced : [prompt.trim(), phrase].filter(Boolean).join(", ");
  return whole
    .replace(/\s+/g, " ")
    .replace(/(?:\s*,)+/g, ",")
    .replace(/^[\s,]+|[\s,]+$/g, "");
}

/**
 * Whether the prompt already says `phrase`.
 * @param {string} prompt
 * @param {string} phrase
 */
export function promptHas(prompt, phrase) {
  const escaped = phrase.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`(?<![\\w-]|snowy )${escaped}\\b`, "i").test(prompt);
}
