LEAK = 0.01


class LeakReport: ...


def check_leaks(path): ...
