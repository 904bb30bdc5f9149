"""How the operations of the decoder are computed: each in the form that its device runs fast, gradients included."""
