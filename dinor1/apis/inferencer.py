"""stub"""
class DINOR1Inferencer: pass
