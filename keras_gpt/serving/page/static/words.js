// What the page says, in English and Chinese.

const WORDS = {
  en: {
    other_language: "中文",
    page_actions: "Page",
    settings: "Settings",
    share: "Share",
    key: "API key",
    conversation: "Conversation",
    mode: "Mode",
    chat: "Chat",
    text: "Text",
    show_probabilities: "Show probabilities",
    likely: "likely",
    surprising: "surprising",
    clear: "Clear",
    send: "Send",
    write: "Write",
    stop_writing: "Stop",
    reset: "Reset",
    close: "Close",
    cancel: "Cancel",
    copy: "Copy",
    copied: "Copied",
    again: "Again",
    go_on: "Continue",
    attention: "Attention",
    you: "You",

    welcome_chat: "Talk to {model}",
    welcome_text: "Let {model} go on with a text",
    welcome_hint:
      "Each token is tinted by how much it surprised the model. Point at one, tap it, or go there with the arrow keys to see what else it could have been.",
    prompt_chat: "Your message",
    prompt_text: "The text to go on with",
    placeholder_chat: "Message",
    placeholder_text: "Once upon a time",

    starting: "Getting ready: the model is being compiled …",
    unreachable: "The server does not answer.",
    writing: "Writing …",
    done: "The answer is there.",

    tokens: { one: "{count} token", other: "{count} tokens" },
    per_second: "{rate}/s",
    reason_stop: "ended by itself",
    reason_length: "cut off: no more tokens allowed",
    reason_you: "stopped by you",
    reason_error: "broken off",
    seed_was: "seed {seed}",
    answer_text: "Answer. Arrow keys go from token to token.",

    instead: "The model's most probable tokens here, before temperature and cut-offs",
    spoken_token: "“{token}”, {share}. {others}",

    group_choosing: "Choosing a token",
    group_penalties: "Against repetition",
    group_answer: "The answer",
    temperature: "Temperature",
    temperature_hint: "0 always takes the most probable token",
    top_p: "Top-p",
    top_p_hint: "Only the most probable tokens that together reach this; 1 is all",
    top_k: "Top-k",
    top_k_hint: "Only so many of the most probable tokens; 0 is all",
    min_p: "Min-p",
    min_p_hint: "Only tokens this probable beside the most probable one",
    repetition_penalty: "Repetition penalty",
    repetition_penalty_hint: "For tokens of the prompt too; 1 is none",
    presence_penalty: "Presence penalty",
    presence_penalty_hint: "Once for each token that the answer has",
    frequency_penalty: "Frequency penalty",
    frequency_penalty_hint: "For each time that the answer has a token",
    max_tokens: "Most tokens",
    max_tokens_hint: "Prompt and answer may have {most} together",
    seed: "Seed",
    seed_hint: "The same number gives the same answer; empty draws one",
    stop: "Stop at",
    stop_hint: "Up to four texts, one a line; \\n is a line break",
    system: "System message",
    system_hint: "How the model is to answer; empty leaves it to the model",

    key_title: "API key",
    key_hint: "This server asks for a key. It is kept in this tab until you close it, and sent to this server alone.",
    use_key: "Use key",
    share_title: "Link to this page",
    share_hint: "It holds the settings and the whole text, and no key. Whoever opens it sees what you see.",
    link_copied: "The link is copied. It holds the settings and the whole text.",
    link_broken: "The link is damaged, so nothing was taken from it.",

    layer: "Layer",
    head: "Head",
    head_number: "Head {number}",
    mean: "mean",
    mean_of_heads: "Mean of all heads",
    layer_of: "{layer} of {layers}",
    leave_out_first: "Leave out the first token, which often takes most",
    attention_hint: "Choose a token: the stronger a tint, the more it takes from there.",
    attention_text: "Prompt and answer. Arrow keys choose the token that looks.",
    attention_loading: "Reading …",
    sees: "“{token}” takes most from",
    map_label: "Map of the weights: a row for each token that looks, a column for each it looks at",
    map_caption: "Rows look, columns are looked at; a click chooses a row.",

    error_any: "The server refused: {message}",
    error_key: "This key is not known.",
    error_queue_full: "Too many people ask at this moment. Try again in a few seconds.",
    error_rate_limit_exceeded: "This key has used up what it may for now. Try again in {seconds} s.",
    error_rate_limit_size: "This text has more tokens than this key may use in a minute.",
    error_context: "This is too long: prompt and answer may have {most} tokens together. Shorten it, ask for fewer tokens, or clear the conversation.",
    error_attention_context: "Too long to show: attention is given for at most {most} tokens of prompt and answer.",
    error_not_ready: "The model is still being compiled. Try again soon.",
    error_shutting_down: "The server is shutting down.",
    error_deadline_exceeded: "No answer could be begun in time. Try again.",
    error_network: "The connection to the server broke off.",
  },
  zh: {
    other_language: "English",
    page_actions: "页面",
    settings: "设置",
    share: "分享",
    key: "API 密钥",
    conversation: "对话",
    mode: "模式",
    chat: "对话",
    text: "续写",
    show_probabilities: "显示概率",
    likely: "常见",
    surprising: "意外",
    clear: "清空",
    send: "发送",
    write: "续写",
    stop_writing: "停止",
    reset: "恢复默认",
    close: "关闭",
    cancel: "取消",
    copy: "复制",
    copied: "已复制",
    again: "重新生成",
    go_on: "继续写",
    attention: "注意力",
    you: "你",

    welcome_chat: "与 {model} 对话",
    welcome_text: "让 {model} 续写一段文字",
    welcome_hint: "词元的底色越深，说明它越出乎模型的意料。用鼠标指向、轻触，或用方向键选中词元，即可查看其他候选。",
    prompt_chat: "你的消息",
    prompt_text: "待续写的文字",
    placeholder_chat: "输入消息",
    placeholder_text: "从前有座山",

    starting: "正在准备：模型编译中……",
    unreachable: "服务器没有响应。",
    writing: "生成中……",
    done: "回答已生成。",

    tokens: { other: "{count} 个词元" },
    per_second: "{rate} 个/秒",
    reason_stop: "自行结束",
    reason_length: "已达词元上限",
    reason_you: "已被你停止",
    reason_error: "中断",
    seed_was: "种子 {seed}",
    answer_text: "回答。用方向键在词元间移动。",

    instead: "此处模型认为最可能的词元（未计温度和截断）",
    spoken_token: "“{token}”，{share}。{others}",

    group_choosing: "选词",
    group_penalties: "避免重复",
    group_answer: "回答",
    temperature: "温度",
    temperature_hint: "0 表示总取最可能的词元",
    top_p: "Top-p",
    top_p_hint: "只从累计概率达到此值的词元中选；1 为不限",
    top_k: "Top-k",
    top_k_hint: "只从最可能的若干个词元中选；0 为不限",
    min_p: "Min-p",
    min_p_hint: "概率与最可能词元之比不低于此值",
    repetition_penalty: "重复惩罚",
    repetition_penalty_hint: "提示词中的词元也算在内；1 为不惩罚",
    presence_penalty: "存在惩罚",
    presence_penalty_hint: "回答中出现过的词元各罚一次",
    frequency_penalty: "频率惩罚",
    frequency_penalty_hint: "按词元在回答中出现的次数累计",
    max_tokens: "最多词元",
    max_tokens_hint: "提示词与回答合计不超过 {most} 个",
    seed: "随机种子",
    seed_hint: "相同的数得到相同的回答；留空则随机",
    stop: "停止文本",
    stop_hint: "至多四条，每行一条；\\n 表示换行",
    system: "系统消息",
    system_hint: "规定模型如何回答；留空由模型决定",

    key_title: "API 密钥",
    key_hint: "此服务器需要密钥。密钥只保存在当前标签页，关闭即清除，并且只发送给此服务器。",
    use_key: "使用密钥",
    share_title: "本页链接",
    share_hint: "链接包含设置和全部文字，不含密钥。打开的人会看到与你相同的内容。",
    link_copied: "链接已复制，其中包含设置和全部文字。",
    link_broken: "链接已损坏，未读取任何内容。",

    layer: "层",
    head: "注意力头",
    head_number: "第 {number} 头",
    mean: "平均",
    mean_of_heads: "所有头的平均",
    layer_of: "第 {layer} 层，共 {layers} 层",
    leave_out_first: "略去首个词元（它常占去大部分权重）",
    attention_hint: "选择一个词元：底色越深，它从那里取得的信息越多。",
    attention_text: "提示词与回答。用方向键选择正在观察的词元。",
    attention_loading: "读取中……",
    sees: "“{token}”主要关注",
    map_label: "权重图：每行是正在观察的词元，每列是被观察的词元",
    map_caption: "行为观察者，列为被观察者；点击可选择一行。",

    error_any: "服务器拒绝了请求：{message}",
    error_key: "密钥无效。",
    error_queue_full: "当前请求过多，请几秒后再试。",
    error_rate_limit_exceeded: "此密钥的用量已达上限，请 {seconds} 秒后再试。",
    error_rate_limit_size: "这段文字的词元数超过了此密钥每分钟的用量。",
    error_context: "内容过长：提示词与回答合计不能超过 {most} 个词元。请缩短文字、减少最多词元，或清空对话。",
    error_attention_context: "内容过长，无法显示：注意力最多支持 {most} 个词元（提示词与回答合计）。",
    error_not_ready: "模型仍在编译，请稍后再试。",
    error_shutting_down: "服务器正在关闭。",
    error_deadline_exceeded: "未能及时开始回答，请重试。",
    error_network: "与服务器的连接已中断。",
  },
};

const KEPT = "keras_gpt.language";
const told = new WeakMap(); // the values in what an element says
let language = kept() ?? firstOf(navigator.languages);

function kept() {
  const name = localStorage.getItem(KEPT);
  return name in WORDS ? name : null;
}

function firstOf(wanted) {
  for (const tag of wanted) {
    const name = tag.toLowerCase().split("-")[0];
    if (name in WORDS) return name;
  }
  return "en";
}

/** Give a text in the page's language, with values in the place of {names}. */
export function say(name, values = {}) {
  const entry = WORDS[language][name];
  const text =
    typeof entry === "string"
      ? entry
      : (entry[new Intl.PluralRules(language).select(values.count)] ?? entry.other);
  return text.replace(/\{(\w+)\}/g, (_, key) => String(values[key]));
}

/** Let an element say something, in whatever language the page has from now on. */
export function tell(element, name, values = {}) {
  element.dataset.say = name;
  told.set(element, values);
  element.textContent = say(name, values);
}

/** Let an element say nothing. */
export function hush(element) {
  delete element.dataset.say;
  element.textContent = "";
}

/** As `tell`, for the name that a screen reader gives an element. */
export function label(element, name, values = {}) {
  element.dataset.sayLabel = name;
  told.set(element, values);
  element.setAttribute("aria-label", say(name, values));
}

/** Give a probability as a person reads it. */
export function percent(share) {
  const digits = share >= 0.1 ? 0 : 1;
  const form = { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits };
  const write = (value) => new Intl.NumberFormat(language, form).format(value);
  return share > 0 && share < 0.0005 ? `<${write(0.001)}` : write(share);
}

/** Write all texts anew. */
export function speak() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-say]")) {
    element.textContent = say(element.dataset.say, told.get(element));
  }
  for (const element of document.querySelectorAll("[data-say-label]")) {
    element.setAttribute("aria-label", say(element.dataset.sayLabel, told.get(element)));
  }
}

/** Take the other language. */
export function switchLanguage() {
  language = language === "en" ? "zh" : "en";
  localStorage.setItem(KEPT, language);
  speak();
}

export const languages = WORDS;
