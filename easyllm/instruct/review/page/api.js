// What the server is asked. A failure is an ApiError whose `code` is a text of words.js.

export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

export function get(name, values = {}) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return answer(fetch(`/api/${name}?${new URLSearchParams(given)}`));
}

export function post(name, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return answer(fetch(`/api/${name}`, { method: "POST", headers, body: JSON.stringify(body) }));
}

async function answer(asked) {
  let response;
  try {
    response = await asked;
  } catch (error) {
    throw new ApiError("gone", error.message);
  }
  if (response.status === 403) throw new ApiError("forbidden", "");
  const found = await response.json().catch(() => ({ code: "wrong", error: response.statusText }));
  if (response.ok) return found;
  throw new ApiError(found.code, found.error);
}
