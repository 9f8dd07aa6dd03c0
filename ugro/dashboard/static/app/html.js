// What every module draws with: htm's tagged templates over Preact, hooks and signals.
import {h, Fragment, Component, render} from "../vendor/preact.js";
import {useEffect, useLayoutEffect, useMemo, useRef, useState} from "../vendor/hooks.js";
import {signal, computed, effect, batch} from "../vendor/signals.js";
import htm from "../vendor/htm.js";

const html = htm.bind(h);

export {html, Fragment, Component, render, useEffect, useLayoutEffect, useMemo, useRef, useState, signal, computed, effect, batch};
