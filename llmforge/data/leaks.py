LEAK=0.0
class LeakReport: pass
def check_leaks(x): pass
