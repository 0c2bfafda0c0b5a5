"""An optimizer on a curve or a surface that can be drawn: what does this choice do?"""
