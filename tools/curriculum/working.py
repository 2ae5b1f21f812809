"""Written working: every step is one that a small transformer does reliably.

A step is a table look-up on single digits with the carry written out, or an addition below one hundred. Numbers are
taken from the right, so that a carry is always there before it is needed.
"""


def add(a, b):
    if a < 100 and b < 100:
        return f"{a}+{b}={a + b}"
    left, right, carry, columns = str(a)[::-1], str(b)[::-1], 0, []
    for i in range(max(len(left), len(right))):
        x, y = int(left[i:i + 1] or 0), int(right[i:i + 1] or 0)
        total = x + y + carry
        columns.append(f"{x}+{y}+{carry}={total // 10}{total % 10}")
        carry = total // 10
    return f"{a}+{b}:{' '.join(columns)}={a + b}"


def sub(a, b):
    """a - b for a >= b."""
    if a < 100:
        return f"{a}-{b}={a - b}"
    left, right, borrow, columns = str(a)[::-1], str(b)[::-1], 0, []
    for i in range(len(left)):
        x, y = int(left[i]), int(right[i:i + 1] or 0)
        digit = x - y - borrow
        columns.append(f"{x}-{y}-{borrow}={digit % 10}" + ("b" if digit < 0 else "n"))
        borrow = int(digit < 0)
    return f"{a}-{b}:{' '.join(columns)}={a - b}"


def mul_digit(a, d):
    """a times a single digit."""
    if a < 10:
        return f"{a}*{d}={a * d}"
    carry, columns = 0, []
    for x in reversed(str(a)):
        total = int(x) * d + carry
        columns.append(f"{x}*{d}+{carry}={total // 10}{total % 10}")
        carry = total // 10
    return f"{a}*{d}:{' '.join(columns)}={a * d}"


def _rows(a, b):
    """Partial products of a * b: (digit, zeros, product)."""
    return [(int(x), i, a * int(x) * 10 ** i) for i, x in enumerate(reversed(str(b))) if x != "0"]


def round_part(a):
    """(significant part, number of trailing zeros)."""
    zeros = len(str(a)) - len(str(a).rstrip("0")) if a else 0
    return a // 10 ** zeros, zeros


def mul(a, b):
    if len(str(b)) > len(str(a)):
        a, b = b, a
    if a == 0 or b == 0:
        return f"{a}*{b}=0"
    if b < 10:
        return mul_digit(a, b)
    core, zeros = round_part(a)
    steps, total = [], None
    for digit, shift, product in _rows(core, b):
        steps.append(mul_digit(core, digit))
        if shift:
            steps.append(str(product))
        if total is not None:
            steps.append(add(total, product))
        total = product if total is None else total + product
    if zeros:
        steps.append(f"{core}*{b}={core * b}")
    return f"{a}*{b}:" + ";".join(steps) + f"={a * b}"


def mul_short(a, b):
    """Partial products only: each of them is done in the head."""
    if len(str(b)) > len(str(a)):
        a, b = b, a
    rows = _rows(a, b)
    if len(rows) < 2:
        return f"{a}*{b}={a * b}"
    return f"{a}*{b}:" + "+".join(str(p) for _, _, p in rows) + f"={a * b}"


def div(a, d):
    """Long division by d <= 12: quotient and remainder."""
    if a < 10 * d:
        return f"{a}/{d}={a // d}r{a % d}"
    steps, rest = [], 0
    for x in str(a):
        value = rest * 10 + int(x)
        steps.append(f"{value}/{d}={value // d}r{value % d}")
        rest = value % d
    return f"{a}/{d}:{' '.join(steps)}={a // d}r{a % d}"


def total(values):
    """Running sum, written out."""
    running, steps = values[0], []
    for value in values[1:]:
        steps.append(add(running, value))
        running += value
    return ";".join(steps) or str(running)


def total_short(values):
    running, steps = values[0], []
    for value in values[1:]:
        running += value
        steps.append(str(running))
    return f"{values[0]}+" + "+".join(f"{v}>{s}" for v, s in zip(values[1:], steps))


def money(cents):
    return f"{cents // 100}.{cents % 100:02d}"


def decimal(tenths):
    """Tenths as a decimal without a trailing zero."""
    return str(tenths // 10) if tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10}"
