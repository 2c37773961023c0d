// Every text of the page, in English and Chinese. {name} is filled in by say().

const ENGLISH = {
  review: "review", skip: "To the row", settings: "Settings", help: "Help", progress: "Progress",
  filters: "Filters", sample: "Sample", other_language: "中文", list: "Rows of this list", row: "The row",
  actions: "Decide", theme_auto: "◐ Auto", theme_light: "☼ Light", theme_dark: "☾ Dark", theme: "Colours",
  search: "Search", state: "State", finding: "Finding", language: "Language", origin: "Origin", score: "Score",
  length: "Length in characters", least_score: "Least score", most_score: "Most score",
  least_length: "Least length", most_length: "Most length", only_sample: "Only the sample", clear: "Clear filters (c)",
  any: "any", least: "≥", most: "≤",
  undecided: "undecided", accepted: "accepted", rejected: "rejected", conflict: "in conflict",
  not_mine: "not decided by me", edited: "edited",
  accept: "Accept", edit: "Edit", reject: "Reject", undo: "Undo", previous: "Previous", next: "Next",
  save: "Save", leave: "Leave", close: "Close",
  as_author: "as {author}", place: "{at} of {count} in this list", row_of: "Row {number} of {total}",
  counts: "{accepted} accepted · {rejected} rejected · {undecided} undecided", counts_conflict: " · {conflict} in conflict",
  progress_text: "{done} of {total} decided", eta: "about {time} left at your pace", minutes: "{n} min", hours: "{n} h",
  instruction: "Instruction", input: "Input", output: "Output", classification: "classification",
  characters: "{n} characters", score_of: "score {score}/5",
  show_all: "Show all {n} characters", hidden_character: "A character that is not seen: {name}",
  flagged: "flagged", dropped: "dropped by the filter", found: "Found by the filters",
  nearest: "Most similar earlier instruction", rouge: "ROUGE-L {value}", this_row: "This row", earlier: "Earlier",
  decisions: "Decisions", conflict_title: "The reviewers differ", follow: "Follow {author} (o)",
  follow_more: "Follow {author}", accept_by: "accepted", edit_by: "accepted with edits", reject_by: "rejected",
  me: "{author} (you)", edits: "What the edit changed",
  lot_accepted: "accepted with the lot", all_accepted: "accepted unseen",
  edit_hint: "Ctrl+Enter saves · Esc leaves, and e brings your words back",
  empty_text: "Instruction and output cannot be empty.",
  why_reject: "Why does this row go?", own_words: "Or in your own words, then Enter",
  told_accept: "Row {number} accepted.", told_edit: "Row {number} accepted with your edits.",
  told_reject: "Row {number} rejected.", told_undo: "The decision on row {number} is taken back.",
  told_row: "Row {number}: {text}", told_nothing: "There is nothing of yours to take back.",
  told_lot: "The lot is accepted.", told_found: "{count} rows in this list.",
  end: "The end of this list", end_empty: "No row is like this", end_left: "{undecided} undecided and {conflict} in conflict remain.",
  end_all: "Every row is decided. Press Ctrl-C where easyllm review runs, and run the recipe again.",
  show_undecided: "Show the undecided (Enter)", show_conflicts: "Show the conflicts", open_plan: "Sample and lot (p)",
  gone: "The review has ended, or cannot be reached. What you decided is in the log; `easyllm review` goes on from there.",
  forbidden: "This page is from an earlier review: open the address that `easyllm review` printed last.",
  unknown: "The rows have been made anew: this one is no longer among them.",
  too_early: "The sample does not allow it yet.", rows_new: "The rows have been made anew; they were read again.",
  wrong: "It was not done: {error}",
  sample_title: "Accept by a sample",
  sample_about: "Decide on a sample that chance has chosen. When it allows, what is undecided may be accepted as it is. Rows you edit or reject count as bad ones, and make the sample larger.",
  error_rate: "Bad rows accepted, at most", confidence: "Confidence",
  plan_sample: "Sample", plan_sample_of: "{needed} of {of} rows", plan_decided: "Decided", plan_defects: "Bad rows found",
  plan_bound: "Bad rows in all, at most", plan_no_bound: "not known yet", plan_left: "Still to decide",
  plan_grew: "{first} without a bad row", plan_ready: "The sample allows it: {count} undecided rows can be accepted.",
  plan_whole: "No smaller sample is enough: every row has to be looked at.",
  plan_conflicts: "{count} rows stay in conflict until you agree.",
  plan_lot: "{author} accepted the lot: {sample} of {of} rows looked at, {defects} bad, at most {error_rate} with {confidence} confidence.",
  plan_all: "{author} accepted all rows unseen.",
  show_sample: "Review the sample", accept_lot: "Accept the lot", undo_lot: "Take it back",
  sample_line: "Sample {decided}/{needed} · {defects} bad · at most {bound} bad in all",
  keys: "Keys", single_keys: "Single keys decide (off: only the buttons and Tab)",
  help_log: "Each decision is on the disk before the next row comes. You may close this page at any time.",
  key_accept: "accept", key_edit: "edit; Ctrl+Enter saves, Esc leaves", key_reject: "reject, then 1 to 9, or your words and Enter",
  key_undo: "undo your latest decision", key_back: "undo your decision on this row", key_next: "next row",
  key_previous: "previous row", key_first: "first and last row of the list", key_filters: "filters; Esc comes back",
  key_search: "search; Enter comes back", key_clear: "clear the filters", key_follow: "in a conflict: decide as the other did",
  key_plan: "sample and lot", key_language: "中文", key_theme: "light, dark, automatic", key_help: "these keys",
};

const CHINESE = {
  review: "人工审核", skip: "跳到当前行", settings: "设置", help: "帮助", progress: "进度",
  filters: "筛选", sample: "抽样", other_language: "English", list: "当前列表", row: "当前行",
  actions: "决定", theme_auto: "◐ 自动", theme_light: "☼ 浅色", theme_dark: "☾ 深色", theme: "配色",
  search: "搜索", state: "状态", finding: "过滤结果", language: "语言", origin: "来源", score: "评分",
  length: "长度（字符）", least_score: "最低评分", most_score: "最高评分",
  least_length: "最短", most_length: "最长", only_sample: "只看样本", clear: "清除筛选（c）",
  any: "不限", least: "≥", most: "≤",
  undecided: "未审", accepted: "已接受", rejected: "已拒绝", conflict: "有分歧",
  not_mine: "我还没审的", edited: "改过的",
  accept: "接受", edit: "修改", reject: "拒绝", undo: "撤销", previous: "上一行", next: "下一行",
  save: "保存", leave: "放弃", close: "关闭",
  as_author: "审核人 {author}", place: "本列表第 {at} 行，共 {count} 行", row_of: "第 {number} 行，共 {total} 行",
  counts: "接受 {accepted} · 拒绝 {rejected} · 未审 {undecided}", counts_conflict: " · 分歧 {conflict}",
  progress_text: "已审 {done} 行，共 {total} 行", eta: "按您的速度约剩 {time}", minutes: "{n} 分钟", hours: "{n} 小时",
  instruction: "指令", input: "输入", output: "输出", classification: "分类任务",
  characters: "{n} 字符", score_of: "评分 {score}/5",
  show_all: "显示全部 {n} 个字符", hidden_character: "看不见的字符：{name}",
  flagged: "提示", dropped: "过滤器会丢弃", found: "过滤器的发现",
  nearest: "之前最相似的指令", rouge: "ROUGE-L {value}", this_row: "本行", earlier: "之前的",
  decisions: "已有决定", conflict_title: "审核人意见不一", follow: "同意 {author}（o）",
  follow_more: "同意 {author}", accept_by: "接受", edit_by: "修改后接受", reject_by: "拒绝",
  me: "{author}（您）", edits: "修改之处",
  lot_accepted: "随整批接受", all_accepted: "未看即接受",
  edit_hint: "Ctrl+Enter 保存 · Esc 离开，再按 e 可找回所写内容",
  empty_text: "指令和输出不能为空。",
  why_reject: "为什么拒绝这一行？", own_words: "或用自己的话写，再按回车",
  told_accept: "第 {number} 行已接受。", told_edit: "第 {number} 行已按您的修改接受。",
  told_reject: "第 {number} 行已拒绝。", told_undo: "第 {number} 行的决定已撤销。",
  told_row: "第 {number} 行：{text}", told_nothing: "没有可以撤销的决定。",
  told_lot: "整批已接受。", told_found: "本列表共 {count} 行。",
  end: "本列表已到末尾", end_empty: "没有符合条件的行", end_left: "还有 {undecided} 行未审，{conflict} 行有分歧。",
  end_all: "所有行都已审完。请在运行 easyllm review 的终端按 Ctrl-C，然后重新运行配方。",
  show_undecided: "显示未审的行（回车）", show_conflicts: "显示有分歧的行", open_plan: "抽样与整批接受（p）",
  gone: "审核服务已结束或无法连接。已做的决定都在日志里；再次运行 `easyllm review` 会接着做。",
  forbidden: "这是之前那次审核的页面：请打开 `easyllm review` 最近显示的地址。",
  unknown: "数据已重新生成，这一行已不在其中。",
  too_early: "样本还不允许这样做。", rows_new: "数据已重新生成，并已重新读取。",
  wrong: "没有成功：{error}",
  sample_title: "抽样接受整批",
  sample_about: "审核随机抽出的样本。样本达到要求后，未审的行可以原样整批接受。被修改或拒绝的行算作坏行，会使所需样本变大。",
  error_rate: "允许的坏行比例上限", confidence: "置信度",
  plan_sample: "样本", plan_sample_of: "{of} 行中的 {needed} 行", plan_decided: "已审", plan_defects: "发现的坏行",
  plan_bound: "全部行中坏行比例上限", plan_no_bound: "尚不可知", plan_left: "还需审核",
  plan_grew: "没有坏行时为 {first}", plan_ready: "样本已达到要求：{count} 行未审的可以整批接受。",
  plan_whole: "更小的样本都不够：每一行都要看。",
  plan_conflicts: "{count} 行有分歧，意见一致前不会接受。",
  plan_lot: "{author} 已接受整批：{of} 行中看了 {sample} 行，坏行 {defects}，以 {confidence} 的置信度不超过 {error_rate}。",
  plan_all: "{author} 未看即接受了所有行。",
  show_sample: "审核样本", accept_lot: "接受整批", undo_lot: "撤回整批接受",
  sample_line: "样本 {decided}/{needed} · 坏行 {defects} · 全部行中坏行不超过 {bound}",
  keys: "按键", single_keys: "启用单键操作（关闭后只能用按钮和 Tab）",
  help_log: "每个决定都先写入磁盘，再显示下一行。本页可随时关闭。",
  key_accept: "接受", key_edit: "修改；Ctrl+Enter 保存，Esc 离开", key_reject: "拒绝，再按 1 到 9，或写理由后回车",
  key_undo: "撤销您最近的决定", key_back: "撤销您对本行的决定", key_next: "下一行",
  key_previous: "上一行", key_first: "列表的第一行和最后一行", key_filters: "筛选；Esc 返回",
  key_search: "搜索；回车返回", key_clear: "清除筛选", key_follow: "有分歧时：与对方一致",
  key_plan: "抽样与整批接受", key_language: "English", key_theme: "浅色、深色、自动", key_help: "显示这些按键",
};

export const WORDS = { en: ENGLISH, zh: CHINESE };

/** The text called `name` in the language of the page. */
export function say(name, values = {}) {
  const text = WORDS[document.documentElement.lang][name] ?? name;
  return text.replace(/\{(\w+)\}/g, (whole, key) => (key in values ? String(values[key]) : whole));
}

/** The name of a language by its code, as people of the page's language call it. */
export function languageName(code) {
  try {
    return new Intl.DisplayNames(document.documentElement.lang, { type: "language" }).of(code);
  } catch {
    return code; // not a code at all
  }
}

/** A number as people of this language write it. */
export const written = (number) => number.toLocaleString(document.documentElement.lang);
export const percent = (share) =>
  share.toLocaleString(document.documentElement.lang, { style: "percent", maximumFractionDigits: 2 });
