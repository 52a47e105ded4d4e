// How an SMS is cut into parts: pure functions, no page needed.

// The alphabet of GSM 03.38; each of its characters is one septet.
const BASIC = new Set(
  "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?" +
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà",
);

// Its extension: an escape and the character, two septets that stand in one part.
const EXTENSION = new Set("^{}\\[~]|€\f");

// What fits in an SMS that stands alone, and in each part of a longer one, which also has a header.
const LIMITS = { "GSM-7": { alone: 160, part: 153 }, "UCS-2": { alone: 70, part: 67 } };

/**
 * Tell how a text is sent.
 *
 * encoding: "GSM-7" or "UCS-2"
 * units: septets of GSM-7, or UTF-16 units of UCS-2
 * parts: how many SMS, 0 for no text
 * left: units that the last part has room for
 * forcing: the characters that need UCS-2, each once, in the order of the text
 */
export function segments(text) {
  const characters = [...text]; // by code point: a surrogate pair is one
  const forcing = [...new Set(characters.filter((one) => !BASIC.has(one) && !EXTENSION.has(one)))];
  const encoding = forcing.length ? "UCS-2" : "GSM-7";
  const sizes = characters.map((one) => (forcing.length ? one.length : EXTENSION.has(one) ? 2 : 1));
  const units = sizes.reduce((sum, size) => sum + size, 0);
  const { alone, part } = LIMITS[encoding];
  if (units <= alone) {
    return { encoding, units, parts: units ? 1 : 0, left: alone - units, forcing };
  }
  let parts = 1;
  let used = 0;
  for (const size of sizes) {
    if (used + size > part) {
      parts += 1; // what takes two units is not split
      used = 0;
    }
    used += size;
  }
  return { encoding, units, parts, left: part - used, forcing };
}

/** Say it in a line for people, like "GSM-7, 12 of 160, 1 SMS". */
export function summary({ encoding, units, parts, left }) {
  const room = parts > 1 ? `${units} units, ${left} left in the last part` : `${units} of ${units + left}`;
  return `${encoding} · ${room} · ${parts === 1 ? "1 SMS" : `${parts} SMS`}`;
}
